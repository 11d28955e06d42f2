"""Legend of a mask's colours, as a picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from gosvae_codec.labels import LabelSpace

Pixels = npt.NDArray[np.uint8]

BACKGROUND = (18, 20, 24)
BRIGHT = (236, 238, 240)
DIM = (146, 152, 160)
GAP = 6
"""Pixels between elements."""
LINE = 30
"""Height of a line of text."""

_FONT = (cv2.FONT_HERSHEY_SIMPLEX, 0.5)


def legend(labels: LabelSpace, width: int) -> Pixels:
    """Return a strip with the labels' colours and names, uint8 (h, width, 3) RGB."""
    cell = max(text_width(label.name) for label in labels.labels) + 44
    columns = min(max((width - 2 * GAP) // cell, 1), len(labels))
    lines = -(-len(labels) // columns)
    columns = -(-len(labels) // lines)
    strip = blank(lines * LINE + GAP, width)
    for index, label in enumerate(labels.labels):
        x = GAP + index % columns * ((width - 2 * GAP) // columns) + 2
        y = index // columns * LINE + 6
        cv2.rectangle(strip, (x, y), (x + 22, y + 15), label.color, cv2.FILLED)
        cv2.rectangle(strip, (x, y), (x + 22, y + 15), DIM, 1)
        write(strip, label.name, (x + 31, y + 13), BRIGHT)
    return strip


def blank(height: int, width: int) -> Pixels:
    """Return an empty picture, uint8 (height, width, 3) RGB."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def text_width(text: str) -> int:
    """Return how many pixels wide :func:`write` writes `text`."""
    return int(cv2.getTextSize(text, *_FONT, 1)[0][0])


def write(
    picture: Pixels,
    text: str,
    origin: tuple[int, int],
    color: tuple[int, int, int],
    anchor: float = 0.0,
) -> None:
    """Write on `picture`; `anchor` is the share of the text that stands left of `origin`."""
    x = origin[0] - round(anchor * text_width(text))
    cv2.putText(picture, text, (x, origin[1]), *_FONT, color, 1, cv2.LINE_AA)
