"""Boxes of detected objects, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from gosvae_codec import DetectionResult, LabelSpace

from .legend import BRIGHT, text_width, write

UNKNOWN = BRIGHT
"""Colour of a class that is not in the label space."""


class Box(NamedTuple):
    """One object; sides in pixels of the frame."""

    name: str
    """Of its class."""
    score: float
    left: float
    top: float
    right: float
    bottom: float


def boxes_of(result: DetectionResult, labels: LabelSpace) -> list[Box]:
    """Return the objects of a frame, by falling score."""
    sides = zip(result.classes.tolist(), result.scores.tolist(), result.boxes.tolist(), strict=True)
    return [Box(labels.labels[index].name, score, *corners) for index, score, corners in sides]


def draw_boxes(
    picture: npt.NDArray[np.uint8], boxes: Sequence[Box], labels: LabelSpace, scale: float = 1.0
) -> None:
    """Draw boxes with names and scores on a picture, uint8 (H, W, 3) RGB.

    Args:
        picture: drawn on.
        boxes: of the frame; the best is drawn last, on top of the others.
        labels: the classes' colours.
        scale: width of the picture by that of the frame.
    """
    colors = {label.name: label.color for label in labels.labels}
    for box in reversed(boxes):
        color = colors.get(box.name, UNKNOWN)
        left, top, right, bottom = (round(scale * side) for side in box[2:])
        cv2.rectangle(picture, (left, top), (right, bottom), color, 2)
        text = f"{box.name} {box.score:.2f}"
        # Above the box, or inside of it at the frame's top.
        line = top - 4 if top >= 18 else top + 14
        cv2.rectangle(picture, (left, line - 13), (left + text_width(text), line + 4), color, -1)
        dark = sum(color) < 3 * 128
        write(picture, text, (left, line), BRIGHT if dark else (0, 0, 0))
