"""Folders of images in Cityscapes or CamVid layout, or any other, as drives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from gosvae_codec.errors import ImageError, LabelError
from gosvae_codec.images import ImageConverter
from gosvae_codec.labels import label_space

from .label_files import read_label, read_values
from .layouts import find_layout
from .source import EPOCH, Frame, Loss, Pictures, Pixels, SourceError, check_label_size

LABELS = "labels.yaml"
"""File in a folder of ``images/`` and ``masks/`` that names the ids in these."""


class Folder(Pictures):
    """Images in a folder: Cityscapes, CamVid, or any; natural order, stamped with index / fps."""

    def __init__(self, path: Path, camera: str, fps: float) -> None:
        super().__init__(path, camera)
        if not fps > 0:
            raise SourceError(f"fps is {fps}; give a number above 0")
        self._fps = fps
        layout = find_layout(path)
        self._files, self._label_of, self.notes = layout.files, layout.label_of, layout.notes
        self._read_label = _read_ids if layout.is_plain else read_label
        if layout.is_plain and (path / LABELS).is_file():
            try:
                self.labels = label_space(str(path / LABELS))
            except LabelError as error:
                raise SourceError(str(error)) from error
        self.interval = round(1e9 / fps)
        self.duration = self._stamp(len(self._files) - 1) - EPOCH
        labelled = sum(self._label_of(file) is not None for file in self._files)
        reason = "" if labelled else f" ({layout.without_labels})"
        self.description = (
            f"{path}: {layout.name}, {len(self._files)} frames at {fps:g} Hz, "
            f"{labelled} with labels{reason}"
        )

    def _stamp(self, index: int) -> int:
        return EPOCH + round(index * 1e9 / self._fps)

    def __len__(self) -> int:
        return len(self._files)

    def _read(self, offset: int, labels: bool, losses: list[Loss]) -> Iterator[Frame]:
        converter = ImageConverter()
        for index, file in enumerate(self._files):
            stamp = self._stamp(index)
            if stamp < EPOCH + offset:
                continue
            try:
                image = converter.to_rgb(_read_image(file))
            except ImageError as error:
                losses.append(Loss("frame", 1, f"{file}: {error}"))
                continue
            label_file = self._label_of(file) if labels else None
            ids = None
            if label_file is not None:
                ids = _label(label_file, self._read_label, image, losses)
            yield Frame(stamp, self.cameras[0], image, ids, time=stamp, index=index)


def _read_image(file: Path) -> Any:
    """Return a picture file as what a camera's driver would publish, grey or BGR of 8 or 16 bits.

    Raises:
        ImageError: it does not decode, or has another depth.
    """
    values = cv2.imread(str(file), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if values is None:
        raise ImageError("it does not decode as an image")
    if values.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"it has pixels of {values.dtype}; pictures have 8 or 16 bits a channel")
    height, width = values.shape[:2]
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=f"{'mono' if values.ndim == 2 else 'bgr'}{8 * values.itemsize}",
        is_bigendian=sys.byteorder == "big",
        step=values.nbytes // height,
        data=np.ascontiguousarray(values).reshape(-1).view(np.uint8),
    )


def _read_ids(file: Path) -> Pixels:
    """Return a label file's own ids, uint8 (H, W); raise ImageError where it is in colours."""
    values = read_values(file)
    if values.ndim != 2:
        raise ImageError("it is in colours; labels in masks/ have ids, as one channel or a palette")
    return values


def _label(
    file: Path, read: Callable[[Path], Pixels], image: Pixels, losses: list[Loss]
) -> Pixels | None:
    """Return a label's ids, uint8 (H, W); None if they cannot be used, which goes to `losses`."""
    try:
        ids = read(file)
        check_label_size(ids, image)
    except (ImageError, OSError) as error:
        losses.append(Loss("label", 1, f"label {file}: {error}"))
        return None
    return ids
