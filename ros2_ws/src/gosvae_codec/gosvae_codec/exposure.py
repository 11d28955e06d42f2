"""Detection of frames that show nothing: nearly black or nearly constant ones."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .images import Frame

NEARLY_BLACK = 12.0
"""Mean of all values, 0 to 255, below which a frame is nearly black, like 12 bits shown as 16."""
NEARLY_CONSTANT = 4.0
"""Largest standard deviation of a channel below which a frame is nearly constant, as behind a lens
cap. In 415 frames of CamVid and Udacity the smallest mean is 46, the smallest deviation 14."""

_SAMPLED_SIDE = 256


class Exposure(NamedTuple):
    """Brightness of one frame.

    Nodes and tools warn if a problem lasts. A single frame is no reason to, as a camera needs up to
    a second to adapt to a tunnel. So count consecutive frames::

        problem = Exposure.of(frame).problem
        self.unusable = self.unusable + 1 if problem else 0
        if self.unusable >= 10:
            warn(f"{problem}: masks are meaningless; check lens, exposure and encoding")
    """

    mean: float
    """Mean of all values, 0 to 255."""
    spread: float
    """Largest standard deviation of a channel, 0 to 128."""

    @classmethod
    def of(cls, frame: Frame) -> Exposure:
        """Measure a frame, uint8 (H, W, 3), on a regular sample of its pixels."""
        rows, columns = (max(side // _SAMPLED_SIDE, 1) for side in frame.shape[:2])
        mean, deviation = cv2.meanStdDev(np.ascontiguousarray(frame[::rows, ::columns]))
        return cls(float(np.mean(mean)), float(np.max(deviation)))

    @property
    def problem(self) -> str:
        """Why a mask of the frame would be meaningless; empty if the frame is usable."""
        if self.mean < NEARLY_BLACK:
            return f"frames are nearly black (mean {self.mean:.1f} of 255)"
        if self.spread < NEARLY_CONSTANT:
            return f"frames are nearly constant (standard deviation {self.spread:.1f} of 255)"
        return ""
