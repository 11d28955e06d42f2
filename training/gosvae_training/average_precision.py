"""Average precision of boxes, as COCO counts it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gosvae_codec.tasks import DetectionResult


class AveragePrecision:
    """AP at an intersection over union of 0.5, the mean over the classes that occur."""

    def __init__(self, names: Sequence[str]) -> None:
        """Begin without frames; `names` are those of the classes, in order."""
        self._names = names
        self._frames = 0
        self._truth: list[dict[str, object]] = []
        self._found: list[dict[str, object]] = []

    def add(self, truth: DetectionResult, found: DetectionResult) -> None:
        """Add one frame: the boxes that there are, and those found."""
        self._frames += 1
        for boxes, rows in ((truth, self._truth), (found, self._found)):
            for (left, top, right, bottom), score, index in zip(*boxes, strict=True):
                width, height = float(right - left), float(bottom - top)
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": self._frames,
                        "category_id": int(index) + 1,
                        "bbox": [float(left), float(top), width, height],
                        "area": width * height,
                        "score": float(score),
                        "iscrowd": 0,
                    }
                )

    def per_class(self) -> dict[str, float]:
        """Return the AP of each class that occurs in the truth, 0 to 1."""
        present = sorted({row["category_id"] for row in self._truth})  # type: ignore[type-var]
        if not present:
            return {}
        truth, found = COCO(), COCO()
        for coco, rows in ((truth, self._truth), (found, self._found)):
            coco.dataset = {
                "images": [{"id": index + 1} for index in range(self._frames)],
                "categories": [{"id": index + 1, "name": n} for index, n in enumerate(self._names)],
                "annotations": rows,
            }
        # It has no other way to be quiet.
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            found.createIndex()
            counter = COCOeval(truth, found, "bbox")
            counter.params.iouThrs = np.array([0.5])
            counter.evaluate()
            counter.accumulate()
        precision = counter.eval["precision"][0, :, :, 0, -1]
        classes = counter.params.catIds
        return {
            self._names[each - 1]: float(precision[:, classes.index(each)].mean())  # type: ignore[operator]
            for each in present
        }

    def mean(self) -> float:
        """Return the mean over the classes that occur; nan without any."""
        values = list(self.per_class().values())
        return float(np.mean(values)) if values else float("nan")
