"""Folders of images in Cityscapes or CamVid layout, or any other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gosvae_codec.errors import ImageError
from gosvae_codec.labels import camvid_to_train_ids, cityscapes_to_train_ids

from .source import EPOCH, Frame, Loss, Pictures, Pixels, SourceError, check_label_size

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class Folder(Pictures):
    """Images in a folder: Cityscapes, CamVid, or any; natural order, stamped with index / fps."""

    def __init__(self, path: Path, camera: str, fps: float) -> None:
        super().__init__(path, camera)
        if not fps > 0:
            raise SourceError(f"fps is {fps}; give a number above 0")
        self._fps = fps
        self._files, self._label_file, self._train_ids, layout = _layout(path)
        self.interval = round(1e9 / fps)
        self.duration = self._stamp(len(self._files) - 1) - EPOCH
        labelled = sum(self._label_file(file) is not None for file in self._files)
        self.description = (
            f"{path}: {layout}, {len(self._files)} frames at {fps:g} Hz, {labelled} with labels"
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
            label_file = self._label_file(file) if labels else None
            label = None
            if label_file is not None:
                try:
                    label = self._label(label_file)
                    check_label_size(label, image)
                except ImageError as error:
                    label = None
                    losses.append(Loss("label", 1, f"label {label_file}: {error}"))
            yield Frame(stamp, self.cameras[0], image, label, time=stamp, index=index)

    def _label(self, file: Path) -> Pixels:
        ids = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if ids is None or ids.ndim != 2 or ids.dtype != np.uint8:
            raise ImageError("it does not decode as an 8-bit image with one channel")
        return np.asarray(self._train_ids(file)[ids], np.uint8)


def _layout(
    path: Path,
) -> tuple[list[Path], Callable[[Path], Path | None], Callable[[Path], Pixels], str]:
    """Find the frames of a folder, where each one's label is, and that file's table of ids."""
    same = np.arange(256, dtype=np.uint8)
    absolute = path.resolve()
    tops = [each for each in (absolute, *absolute.parents) if each.name == "leftImg8bit"]
    top = tops[0] if tops else absolute / "leftImg8bit"
    if top.is_dir():
        inside = absolute if tops else top
        files = sorted(filter(_is_image, inside.rglob("*_leftImg8bit.png")), key=_natural)
        if not files:
            raise SourceError(f"{path} has no *_leftImg8bit.png in it; give a split of Cityscapes")
        from_ids = cityscapes_to_train_ids()

        def fine(file: Path) -> Path | None:
            folder = top.parent / "gtFine" / file.parent.relative_to(top)
            stem = file.name.removesuffix("leftImg8bit.png")
            for kind in ("labelTrainIds", "labelIds"):
                if (label := folder / f"{stem}gtFine_{kind}.png").exists():
                    return label
            return None

        def table(label: Path) -> Pixels:
            return same if label.name.endswith("TrainIds.png") else from_ids

        return files, fine, table, "Cityscapes"

    files = sorted(filter(_is_image, path.iterdir()), key=_natural)
    if not files:
        nested = sorted(
            str(folder)
            for folder in path.iterdir()
            if folder.is_dir() and any(map(_is_image, folder.iterdir()))
        )
        hint = f"give one of: {', '.join(nested)}" if nested else "give a folder with images"
        raise SourceError(f"{path} has no images in it; {hint}")
    annotations = absolute.with_name(f"{absolute.name}annot")
    camvid = camvid_to_train_ids()

    def annotation(file: Path) -> Path | None:
        label = (annotations / file.name).with_suffix(".png")
        return label if label.exists() else None

    layout = "CamVid" if annotations.is_dir() else "images"
    return files, annotation, lambda _: camvid, layout


def _is_image(file: Path) -> bool:
    # macOS leaves a "._<name>" beside each file that it copies.
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _natural(file: Path) -> list[Any]:
    """Sort key by which frame_9 comes before frame_10."""
    parts = re.split(r"(\d+)", str(file))
    return [int(part) if part.isdigit() else part for part in parts]
