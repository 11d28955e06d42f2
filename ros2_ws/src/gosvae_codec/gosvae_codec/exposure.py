"""Whether a frame shows anything: nearly black and nearly constant frames get worthless masks."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .images import Frame

NEARLY_BLACK = 10.0
"""Mean of all values, 0 to 255, below which a frame is nearly black. Night drives lie above it."""
NEARLY_CONSTANT = 4.0
"""Largest standard deviation of a channel below which a frame is nearly constant: lens caps, the
sun in the lens, test patterns of one colour. Fog and tunnels lie above it."""

_SAMPLED_SIDE = 256


class Exposure(NamedTuple):
    """Brightness of one frame.

    For nodes and tools, which warn where a problem lasts. One frame proves little, as a camera
    adapts to a tunnel within a second; so count::

        problem = Exposure.of(frame).problem
        self.unusable = self.unusable + 1 if problem else 0
        if self.unusable >= 10:
            warn(f"{problem}: masks mean nothing; check lens, exposure and encoding")
    """

    mean: float
    """Mean of all values, 0 to 255."""
    spread: float
    """Largest standard deviation of a channel, 0 to 128."""

    @classmethod
    def of(cls, frame: Frame) -> Exposure:
        """Measure a frame, uint8 (H, W, 3), on a regular sample of its pixels (0.1 ms)."""
        rows, columns = (max(side // _SAMPLED_SIDE, 1) for side in frame.shape[:2])
        mean, deviation = cv2.meanStdDev(np.ascontiguousarray(frame[::rows, ::columns]))
        return cls(float(np.mean(mean)), float(np.max(deviation)))

    @property
    def problem(self) -> str:
        """Why a mask of the frame would mean nothing; empty if the frame is sound."""
        if self.mean < NEARLY_BLACK:
            return f"frames are nearly black (mean {self.mean:.1f} of 255)"
        if self.spread < NEARLY_CONSTANT:
            return f"frames are nearly constant (standard deviation {self.spread:.1f} of 255)"
        return ""
