"""Mean intersection over union, accumulated over a set of frames."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from .labels import UNLABELLED

_EXACT = 1 << 24
"""Largest range in which float32 represents every integer."""


def miou(
    hits: npt.NDArray[np.int64], truths: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return mean intersection over union, over the labels that occur in the truth.

    Args:
        hits: pixels whose label is predicted rightly, int64 (..., labels).
        truths: pixels of each label in the truth, of the same shape.
        predictions: pixels of each label in the prediction, of the same shape.

    Returns:
        float64 (...); nan where no label occurs.
    """
    occurs = truths > 0
    iou = np.divide(hits, truths + predictions - hits, out=np.zeros(hits.shape), where=occurs)
    # Summed in order, as in Cityscapes' own evaluation: identical to the last digit.
    total, count = np.cumsum(iou, -1)[..., -1], occurs.sum(-1)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return np.asarray(mean, np.float64)


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs of label ids; unlabelled truth is not counted."""

    def __init__(self) -> None:
        self.counts = np.zeros((256, 256), np.int64)

    def add(self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Count one pair of masks, uint8 (H, W) each.

        Raises:
            ValueError: the masks differ in shape.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"truth is {truth.shape} but prediction {prediction.shape}")
        # calcHist counts in float32, hence in parts; it is twenty times as fast as numpy.
        rows = max(_EXACT // max(truth.shape[1], 1), 1)
        for begin in range(0, truth.shape[0], rows):
            part = slice(begin, begin + rows)
            pair = [np.ascontiguousarray(each[part]) for each in (truth, prediction)]
            counts = cv2.calcHist(pair, [0, 1], None, [256, 256], [0, 256, 0, 256])
            counts[UNLABELLED] = 0
            self.counts += counts.astype(np.int64)

    def iou(self) -> dict[int, float]:
        """Return intersection over union for each label id that occurs in the truth."""
        hits = np.diag(self.counts)
        truths, predictions = self.counts.sum(1), self.counts.sum(0)
        return {
            int(label): float(hits[label] / (truths[label] + predictions[label] - hits[label]))
            for label in np.flatnonzero(truths)
        }

    def miou(self) -> float:
        """Return the mean of :meth:`iou`; nan when no labelled pixel was added."""
        return float(miou(np.diag(self.counts), self.counts.sum(1), self.counts.sum(0)))

    def accuracy(self) -> float:
        """Return the share of labelled pixels predicted rightly; nan when there are none."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else float("nan")
