"""Tasks: the kinds of heads that a bundle may have, and what each makes of a frame."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .errors import BundleError, GosvaeError
from .labels import UNLABELLED, LabelSpace
from .manifest import FEATURES, checked, head_file, int8, read_labels
from .masks import Mask, resize_mask, upsampled_argmax, upsampled_confidence
from .sessions import Session

Outputs = tuple[npt.NDArray[Any], ...]
"""What a head makes of one frame, in the order of its kind's :attr:`Task.outputs`."""
FEATURES_KEY = "gosvae_features"
"""Key of a head's metadata: SHA-256 of the ``features.onnx`` that it was made for."""
MIN_SCORE = 0.2
"""Least score of a box that a receiver keeps, unless it is told another."""
UNITS = ("metres", "relative")
"""What a depth is measured in; relative depths have no scale."""


class Canvas(NamedTuple):
    """Where results of a frame are placed."""

    input_size: tuple[int, int]
    """Height and width of the encoder's input."""
    size: tuple[int, int]
    """Height and width of the camera frame, which results are at."""
    unknown: npt.NDArray[np.bool_]
    """For each line of the encoder's input, (H,), whether its tokens never arrived."""
    min_score: float = MIN_SCORE
    """Of boxes that are kept."""


@dataclass(frozen=True, eq=False)
class SemanticResult:
    """The label of each pixel of a frame."""

    mask: Mask
    """uint8 (H, W) label ids at the camera's size; unlabelled where tokens never arrived."""
    _logits: npt.NDArray[np.float32]
    _canvas: Canvas

    @cached_property
    def confidence(self) -> npt.NDArray[np.uint8]:
        """Softmax probability of each pixel's label, 255 for 1, uint8 (H, W).

        Computed when it is first asked for. 0 where tokens never arrived.
        """
        confidence = upsampled_confidence(self._logits, self._canvas.input_size)
        confidence[self._canvas.unknown] = 0
        return resize_mask(confidence, self._canvas.size)


class DetectionResult(NamedTuple):
    """The objects in a frame, by falling score."""

    boxes: npt.NDArray[np.float32]
    """x0, y0, x1, y1 in pixels of the camera frame, float32 (M, 4)."""
    scores: npt.NDArray[np.float32]
    """0 to 1, float32 (M,)."""
    classes: npt.NDArray[np.int64]
    """Indices into the task's labels, int64 (M,)."""


class DepthResult(NamedTuple):
    """The depth of each pixel of a frame."""

    depth: npt.NDArray[np.float32]
    """In the task's unit, float32 (H, W) at the camera's size; NaN where tokens never arrived."""


Result = SemanticResult | DetectionResult | DepthResult


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """One task of a bundle, as its manifest describes it."""

    name: str
    record: Mapping[str, Any]
    """The manifest's entry."""
    kind: ClassVar[str]
    outputs: ClassVar[Mapping[str, str]]
    """Names and ONNX types of what the head makes, in order."""
    ranks: ClassVar[tuple[int, ...]]
    """Numbers of dimensions of `outputs`."""
    keys: ClassVar[tuple[str, ...]]
    """What the manifest's entry must have beside kind, files and features."""

    def __post_init__(self) -> None:
        """Raise BundleError or LabelError where the entry is incomplete or contradicts itself."""
        missing = [key for key in self.keys if key not in self.record]
        if missing:
            raise BundleError(f"a task of kind {self.kind} needs {missing}")
        checked(self.record, "features", str)
        if self.file not in checked(self.record, "files", dict):
            raise BundleError(f"files: {self.file} not listed")
        if "expert" in self.record:
            checked(checked(self.record, "expert", dict), "sha256", str)
        strange = set(self.record["files"]) - {self.file, int8(self.file)}
        if strange:
            raise BundleError(f"files: {sorted(map(str, strange))} are not of this task")

    @property
    def file(self) -> str:
        """Name of the head's network in the bundle."""
        return head_file(self.name)

    @property
    def version(self) -> str:
        """SHA-256 of the head's network; it changes without the bundle's fingerprint."""
        return str(self.record["files"][self.file]["sha256"])

    @cached_property
    def labels(self) -> LabelSpace:
        """The meaning of channels or classes, in order.

        Raises:
            BundleError, LabelError: the task has none, or they are impossible.
        """
        if "labels" not in self.record:
            raise BundleError(f"a task of kind {self.kind} has no labels")
        return read_labels(str(self.record.get("label_space", self.name)), self.record["labels"])

    def check(self, session: Session) -> None:
        """Check a head, or an expert, which makes the same of frames.

        Raises:
            BundleError: its outputs are not those of the task's kind.
        """
        found = {name: kind for name, kind, _ in session.outputs}
        ranks = tuple(len(shape) for *_, shape in session.outputs)
        if list(found.items()) != list(self.outputs.items()) or ranks != self.ranks:
            raise BundleError(
                f"{session.path}: makes {_described(found, ranks)}; a head of kind {self.kind} "
                f"makes {_described(self.outputs, self.ranks)}: export it again"
            )

    def prepare(self) -> None:  # noqa: B027 (most kinds compile nothing)
        """Compile what :meth:`finish` needs."""

    def split(self, made: Sequence[npt.NDArray[Any]], frames: int) -> list[Outputs]:
        """Return what a head made of a batch of `frames` for each of them."""
        return [tuple(array[index] for array in made) for index in range(frames)]

    @abstractmethod
    def finish(self, made: Outputs, canvas: Canvas) -> Result:
        """Return the result of one frame at the camera's size."""


class Semantic(Task):
    """A label for each pixel: logits float32 (N, classes, h, w) at any stride."""

    kind = "semantic"
    outputs: ClassVar = {"logits": "tensor(float)"}
    ranks = (4,)
    keys = ("labels",)

    def __post_init__(self) -> None:
        """See :class:`Task`."""
        super().__post_init__()
        _ = self.labels

    def check(self, session: Session) -> None:
        """See :class:`Task`; there is a channel for each label."""
        super().check(session)
        channels = session.outputs[0][2][1]
        if channels != len(self.labels):
            raise BundleError(
                f"{session.path}: makes {channels} channels, the manifest lists "
                f"{len(self.labels)} labels: export the bundle again"
            )

    def prepare(self) -> None:
        """See :class:`Task`."""
        logits = np.zeros((len(self.labels), 1, 1), np.float32)
        upsampled_argmax(logits, (1, 1), self.labels)
        upsampled_confidence(logits, (1, 1))

    def finish(self, made: Outputs, canvas: Canvas) -> SemanticResult:
        """Return the mask."""
        (logits,) = made
        mask = upsampled_argmax(logits, canvas.input_size, self.labels)
        mask[canvas.unknown] = UNLABELLED
        return SemanticResult(resize_mask(mask, canvas.size), logits, canvas)


class Detection(Task):
    """Boxes of objects, after non-maximum suppression.

    A head makes, for M objects of N frames, by falling score within a frame, M at least 0: boxes
    float32 (M, 4), x0, y0, x1, y1 as shares of the frame's width and height; scores float32 (M,);
    classes int64 (M,), indices into the labels; frames int64 (M,), indices into the batch.
    """

    kind = "detection"
    outputs: ClassVar = {
        "boxes": "tensor(float)",
        "scores": "tensor(float)",
        "classes": "tensor(int64)",
        "frames": "tensor(int64)",
    }
    ranks = (2, 1, 1, 1)
    keys = ("labels",)

    def __post_init__(self) -> None:
        """See :class:`Task`."""
        super().__post_init__()
        _ = self.labels

    def split(self, made: Sequence[npt.NDArray[Any]], frames: int) -> list[Outputs]:
        """See :class:`Task`."""
        *objects, of = made
        return [tuple(array[of == index] for array in objects) for index in range(frames)]

    def finish(self, made: Outputs, canvas: Canvas) -> DetectionResult:
        """Return the boxes that are likely enough and whose centre's tokens arrived.

        They are cut at the frame's sides.
        """
        shares, scores, classes = made
        height, width = canvas.size
        shares = np.clip(np.nan_to_num(shares), 0, 1)
        lines = len(canvas.unknown)
        centre = np.minimum((shares[:, 1] + shares[:, 3]) / 2 * lines, lines - 1)
        known = ~canvas.unknown[centre.astype(np.intp)]
        known &= (classes >= 0) & (classes < len(self.labels)) & (scores >= canvas.min_score)
        boxes = shares * np.array([width, height, width, height], np.float32)
        return DetectionResult(boxes[known], scores[known], classes[known])


class Depth(Task):
    """The depth of each pixel: float32 (N, h, w) at any stride."""

    kind = "depth"
    outputs: ClassVar = {"depth": "tensor(float)"}
    ranks = (3,)
    keys = ("unit",)

    def __post_init__(self) -> None:
        """See :class:`Task`."""
        super().__post_init__()
        if self.unit not in UNITS:
            raise BundleError(f"unit {self.unit!r}: give one of {', '.join(UNITS)}")

    @property
    def unit(self) -> str:
        """``metres`` or ``relative``."""
        return str(self.record["unit"])

    def finish(self, made: Outputs, canvas: Canvas) -> DepthResult:
        """Return the depth, scaled bilinearly."""
        (depth,) = made
        depth = cv2.resize(depth, canvas.input_size[::-1], interpolation=cv2.INTER_LINEAR)
        if canvas.size != canvas.input_size:
            depth = cv2.resize(depth, canvas.size[::-1], interpolation=cv2.INTER_LINEAR)
        lines = np.arange(canvas.size[0]) * len(canvas.unknown) // canvas.size[0]
        depth[canvas.unknown[lines]] = np.nan
        return DepthResult(np.asarray(depth, np.float32))


KINDS: Mapping[str, type[Task]] = {each.kind: each for each in (Semantic, Detection, Depth)}
"""Kinds of tasks by name."""

TASK_NAME = re.compile("[a-z][a-z0-9_]*")
"""What tasks may be called."""


def read_tasks(manifest: Mapping[str, Any]) -> dict[str, Task]:
    """Return the tasks of a manifest by name, in its order.

    Raises:
        BundleError, LabelError: an entry is incomplete, of an unknown kind, or of a head that was
            made for other features. The message names the task.
    """
    tasks = {}
    for name, entry in checked(manifest, "tasks", dict).items():
        try:
            tasks[name] = read_task(name, entry, manifest["files"])
        except GosvaeError as error:
            raise BundleError(f"tasks: {name}: {error}") from error
    if not tasks:
        raise BundleError("tasks: there are none")
    return tasks


def read_task(name: Any, entry: Any, files: Mapping[str, Any]) -> Task:
    """Return one task of a manifest with `files`.

    Raises:
        BundleError, LabelError: see :func:`read_tasks`.
    """
    if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
        raise BundleError(f"{name!r} is no name; give lower-case letters, digits and _")
    kind = checked(entry, "kind", str)
    if kind not in KINDS:
        raise BundleError(f"unknown kind {kind!r}; there are: {', '.join(KINDS)}")
    task = KINDS[kind](name, entry)
    if entry["features"] != files[FEATURES]["sha256"]:
        raise BundleError(
            f"{task.file} was made for other features, {entry['features'][:16]}..., than this "
            f"bundle's {FEATURES}, {files[FEATURES]['sha256'][:16]}...: train the head on this "
            "bundle, or take it from the bundle that it was trained on"
        )
    return task


def _described(outputs: Mapping[str, str], ranks: Sequence[int]) -> str:
    return ", ".join(
        f"{name} {kind} of {rank} dimensions"
        for (name, kind), rank in zip(outputs.items(), ranks, strict=True)
    )
