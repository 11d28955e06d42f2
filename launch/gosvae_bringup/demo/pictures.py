"""Pictures of a demo run: a video and a contact sheet of camera, mask and overlay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

from gosvae_codec.labels import UNLABELLED, LabelSpace
from gosvae_codec.masks import colorize
from gosvae_common.boxes import Box, draw_boxes
from gosvae_common.legend import BRIGHT, DIM, GAP, LINE, blank, legend, write

Pixels = npt.NDArray[np.uint8]

WIDTH = 1920
BLEND = 0.55
"""Weight of the mask's colours in the overlay."""
TITLES = ("camera", "semantic mask", "overlay")
SHEET_COLUMNS = 4
SHEET_FRAMES = 8


class Panels(NamedTuple):
    """One frame's three pictures, uint8 (h, w, 3) RGB each, all of the same even size."""

    camera: Pixels
    mask: Pixels
    overlay: Pixels


class Found(NamedTuple):
    """Objects in a frame."""

    boxes: Sequence[Box]
    labels: LabelSpace
    """Colours of their classes."""


def panels(
    image: Pixels, mask: Pixels | None, labels: LabelSpace, width: int, found: Found | None = None
) -> Panels:
    """Return the three pictures of a frame, scaled to `width`, an even number of pixels.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W) label ids; None, which is written there, if no mask came.
        labels: colours of the mask.
        width: of each picture.
        found: objects that are drawn on the overlay.
    """
    size = (width, max(2, round(image.shape[0] * width / image.shape[1] / 2) * 2))
    camera = _scaled(image, size)
    if mask is None:
        missing = np.full_like(camera, 40)
        write(missing, "no mask came", (size[0] // 2, size[1] // 2), DIM, anchor=0.5)
        return Panels(camera, missing, camera)
    color = colorize(mask, labels)
    blended = cv2.addWeighted(image, 1 - BLEND, color, BLEND, 0)
    overlay = np.where((mask == UNLABELLED)[..., None], image, blended)
    overlay = _scaled(overlay, size)
    if found is not None:
        draw_boxes(overlay, found.boxes, found.labels, width / image.shape[1])
    return Panels(camera, _scaled(color, size), overlay)


class Video:
    """An H.264 video of camera, mask and overlay side by side, written while a `with` block runs.

    Frames of another shape than the first one's are fitted into its pictures' size.

    Args:
        path: of the .mp4.
        labels: colours of the masks and of the legend.
        title: start of the caption.
        rate: frames per second.
    """

    def __init__(self, path: Path, labels: LabelSpace, title: str, rate: Fraction) -> None:
        self._labels = labels
        self._title = title
        self._legend = legend(labels, WIDTH)
        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=rate)
        self._stream.pix_fmt = "yuv420p"
        self._picture_size: tuple[int, int] | None = None
        self._stream.options = {"crf": "20", "preset": "medium"}

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._picture_size is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def add(
        self, image: Pixels, mask: Pixels | None, caption: str, found: Found | None = None
    ) -> None:
        """Append a frame; arguments as for :func:`panels`, `caption` stands below."""
        pictures = panels(image, mask, self._labels, (WIDTH - 4 * GAP) // 6 * 2, found)
        first = self._picture_size is None
        if self._picture_size is None:
            self._picture_size = pictures.camera.shape[1], pictures.camera.shape[0]
        row = _row((_fitted(each, self._picture_size) for each in pictures), WIDTH)
        head, foot = blank(LINE, WIDTH), blank(LINE, WIDTH)
        for index, title in enumerate(TITLES):
            write(head, title, (GAP + index * (pictures[0].shape[1] + GAP) + 2, 20), DIM)
        write(foot, self._title, (GAP + 2, 20), DIM)
        write(foot, caption, (WIDTH - GAP - 2, 20), BRIGHT, anchor=1.0)
        canvas = np.concatenate([head, row, foot, self._legend])
        canvas = canvas[: canvas.shape[0] // 2 * 2]
        if first:
            self._stream.height, self._stream.width = canvas.shape[:2]
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(canvas, "rgb24")))


def contact_sheet(frames: Sequence[tuple[str, Panels]], labels: LabelSpace, title: str) -> Pixels:
    """Return a sheet of frames, each a column of camera, mask and overlay under its caption.

    Args:
        frames: caption and pictures, all of one width.
        labels: for the legend.
        title: one line at the top.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    width = GAP + SHEET_COLUMNS * (frames[0][1].camera.shape[1] + GAP)
    head = blank(LINE + GAP, width)
    write(head, title, (GAP + 2, 24), BRIGHT)
    parts = [head]
    for first in range(0, len(frames), SHEET_COLUMNS):
        block = frames[first : first + SHEET_COLUMNS]
        captions = blank(LINE, width)
        for index, (caption, pictures) in enumerate(block):
            write(captions, caption, (GAP + index * (pictures.camera.shape[1] + GAP) + 2, 20), DIM)
        parts.append(captions)
        for kind in range(len(TITLES)):
            parts += [_row([pictures[kind] for _, pictures in block], width), blank(GAP, width)]
    return np.concatenate([*parts, legend(labels, width)])


def _row(pictures: Iterable[Pixels], width: int) -> Pixels:
    """Return the pictures side by side, all as high as the highest."""
    pictures = list(pictures)
    height = max(picture.shape[0] for picture in pictures)
    parts: list[Pixels] = []
    for picture in pictures:
        below = blank(height - picture.shape[0], picture.shape[1])
        parts += [blank(height, GAP), np.concatenate([picture, below])]
    row = np.concatenate(parts, axis=1)
    return np.concatenate([row, blank(row.shape[0], width - row.shape[1])], axis=1)


def _scaled(picture: Pixels, size: tuple[int, int]) -> Pixels:
    smaller = size[0] < picture.shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)


def _fitted(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Return the picture scaled to fit into `size`, (width, height), and centred there."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    scale = min(size[0] / width, size[1] / height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = blank(size[1], size[0])
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    canvas[top : top + height, left : left + width] = _scaled(picture, (width, height))
    return canvas
