"""How far what a bundle's tasks make of tokens is from what their experts make of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from gosvae_codec import ModelBundle
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_codec.tasks import DepthResult, DetectionResult, SemanticResult, Task

from .average_precision import AveragePrecision


class TaskMeter(Protocol):
    """Compares the results of one task, frame by frame."""

    def add(self, wanted: Any, made: Any) -> None:
        """Add one frame: the expert's result, and the task's."""

    def figures(self) -> dict[str, Any]:
        """Return the figures by name; None where there is none."""


class AgreementMeter:
    """``agreement``, mIoU with the expert's masks as truth, and ``per_class``."""

    def __init__(self, task: Task) -> None:
        self._names = {label.id: label.name for label in task.labels.labels}
        self.matrix = ConfusionMatrix()

    def add(self, wanted: SemanticResult, made: SemanticResult) -> None:
        """See :class:`TaskMeter`."""
        self.matrix.add(wanted.mask, made.mask)

    def figures(self) -> dict[str, Any]:
        """See :class:`TaskMeter`."""
        per_class = {self._names[key]: value for key, value in self.matrix.iou().items()}
        return {"agreement": _rounded(self.matrix.miou()), "per_class": _all_rounded(per_class)}


class PrecisionMeter:
    """``ap50``, average precision at an overlap of 0.5 with the expert's boxes as truth.

    ``boxes`` is how many of these there are.
    """

    def __init__(self, task: Task) -> None:
        self._precision = AveragePrecision([label.name for label in task.labels.labels])
        self._boxes = 0

    def add(self, wanted: DetectionResult, made: DetectionResult) -> None:
        """See :class:`TaskMeter`."""
        self._precision.add(wanted, made)
        self._boxes += len(wanted.scores)

    def figures(self) -> dict[str, Any]:
        """See :class:`TaskMeter`."""
        per_class = self._precision.per_class()
        mean = float(np.mean([*per_class.values()])) if per_class else float("nan")
        return {"ap50": _rounded(mean), "boxes": self._boxes, "per_class": _all_rounded(per_class)}


class DepthMeter:
    """``relative_error``, the mean absolute difference as a share of the expert's depth."""

    def __init__(self, task: Task) -> None:
        self._errors: list[float] = []

    def add(self, wanted: DepthResult, made: DepthResult) -> None:
        """See :class:`TaskMeter`."""
        error = np.abs(made.depth - wanted.depth) / np.maximum(np.abs(wanted.depth), 1e-6)
        if np.isfinite(error).any():
            self._errors.append(float(error[np.isfinite(error)].mean()))

    def figures(self) -> dict[str, Any]:
        """See :class:`TaskMeter`."""
        return {"relative_error": _rounded(float(np.mean(self._errors or [np.nan])))}


_METERS: Mapping[str, Callable[[Task], TaskMeter]] = {
    "semantic": AgreementMeter,
    "detection": PrecisionMeter,
    "depth": DepthMeter,
}


def task_meters(bundle: ModelBundle) -> dict[str, TaskMeter]:
    """Return a meter for each task of a bundle that names its expert."""
    return {
        name: _METERS[task.kind](task)
        for name, task in bundle.tasks.items()
        if "expert" in task.record
    }


def task_figures(streams: Mapping[int, Mapping[str, TaskMeter]]) -> dict[str, Any]:
    """Return the figures of each task: with all levels, and under ``levels`` with fewer.

    Args:
        streams: the meters by task, for each number of levels.
    """
    most = max(streams)
    return {
        name: {
            **meter.figures(),
            "levels": [
                {"levels": levels, **meters[name].figures()} for levels, meters in streams.items()
            ],
        }
        for name, meter in streams[most].items()
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def _all_rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
