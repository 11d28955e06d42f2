"""Folders of images in Cityscapes or CamVid layout, or any other, as drives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from gosvae_codec.errors import ImageError

from .label_files import read_label
from .layouts import find_layout
from .source import EPOCH, Frame, Loss, Pictures, Pixels, SourceError, check_label_size


class Folder(Pictures):
    """Images in a folder: Cityscapes, CamVid, or any; natural order, stamped with index / fps."""

    def __init__(self, path: Path, camera: str, fps: float) -> None:
        super().__init__(path, camera)
        if not fps > 0:
            raise SourceError(f"fps is {fps}; give a number above 0")
        self._fps = fps
        layout = find_layout(path)
        self._files, self._label_of, self.notes = layout.files, layout.label_of, layout.notes
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
        for index, file in enumerate(self._files):
            stamp = self._stamp(index)
            if stamp < EPOCH + offset:
                continue
            bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if bgr is None:
                losses.append(Loss("frame", 1, f"{file} does not decode as an image"))
                continue
            image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            label_file = self._label_of(file) if labels else None
            ids = None if label_file is None else _label(label_file, image, losses)
            yield Frame(stamp, self.cameras[0], image, ids, time=stamp, index=index)


def _label(file: Path, image: Pixels, losses: list[Loss]) -> Pixels | None:
    """Return a label's ids, uint8 (H, W); None if they cannot be used, which goes to `losses`."""
    try:
        ids = read_label(file)
        check_label_size(ids, image)
    except (ImageError, OSError) as error:
        losses.append(Loss("label", 1, f"label {file}: {error}"))
        return None
    return ids
