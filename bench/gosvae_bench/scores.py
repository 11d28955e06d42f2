"""mIoU with its confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gosvae_codec.masks import Mask
from gosvae_codec.metrics import ConfusionMatrix, miou

RESAMPLES = 1000
"""Number of bootstrap resamples of the frames."""


class Counts(NamedTuple):
    """Pixels by frame and label, int64 (frames, 256): right, in the truth, in the prediction."""

    hits: npt.NDArray[np.int64]
    truths: npt.NDArray[np.int64]
    said: npt.NDArray[np.int64]

    @classmethod
    def of(cls, matrices: Sequence[npt.NDArray[np.int64]]) -> Counts:
        """Return the counts of confusion matrices, one per frame."""
        stack = np.stack(matrices)
        return cls(stack.diagonal(axis1=1, axis2=2), stack.sum(2), stack.sum(1))

    def miou(self, weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return mIoU for each row of weights of the frames, int64 (rows, frames)."""
        return miou(*(weights @ each for each in self))

    def figures(self) -> tuple[float, list[float]]:
        """Return mIoU over all frames, and its 95% confidence interval.

        The interval is the percentile bootstrap over frames (Efron 1979), always with the same
        resamples, so that all contenders are compared on the same ones.
        """
        frames = len(self.hits)
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(frames, np.full(frames, 1 / frames), RESAMPLES)
        low, high = np.percentile(self.miou(drawn), (2.5, 97.5))
        whole = self.miou(np.ones((1, frames), np.int64))[0]
        return round(float(whole), 4), [round(float(low), 4), round(float(high), 4)]


def counts_of(truth: Mask, mask: Mask) -> npt.NDArray[np.int64]:
    """Return the confusion matrix of one frame."""
    matrix = ConfusionMatrix()
    matrix.add(truth, mask)
    return matrix.counts
