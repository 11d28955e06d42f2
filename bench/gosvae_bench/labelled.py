"""Labelled frames of a drive, in files that all processes map into memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.labels import UNLABELLED
from gosvae_codec.masks import Mask
from gosvae_tools.drives import open_source

from .link_streams import Image


class Drive:
    """Frames, true masks and the expert's masks, in files that all processes map into memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return len(list(self._folder.glob("frame*.npy")))

    def frame(self, index: int) -> Image:
        """Return a frame, uint8 (H, W, 3) RGB."""
        return np.asarray(self._load("frame", index))

    def label(self, index: int) -> Mask:
        """Return the true mask of a frame, uint8 (H, W); unlabelled where the expert knows none."""
        return np.asarray(self._load("label", index))

    def expert(self, index: int) -> Mask:
        """Return the expert's mask of a frame as it was taken, uint8 (H, W)."""
        return np.asarray(self._load("expert", index))

    def has(self, kind: str, index: int) -> bool:
        """Return whether there is an array of that kind: ``frame``, ``label`` or ``expert``."""
        return (self._folder / f"{kind}{index:06}.npy").exists()

    def save(self, kind: str, index: int, array: npt.NDArray[np.uint8]) -> None:
        """Save an array of that kind: ``frame``, ``label`` or ``expert``."""
        np.save(self._folder / f"{kind}{index:06}.npy", array)

    def _load(self, kind: str, index: int) -> npt.NDArray[np.uint8]:
        return np.load(self._folder / f"{kind}{index:06}.npy", mmap_mode="r")


def find_split(data: Path) -> Path:
    """Return the folder of frames in a dataset's root: its `val` split if it has one."""
    for inside in (data / "leftImg8bit" / "val", data / "val"):
        if inside.is_dir():
            return inside
    return data


def unpack(data: Path, most: int | None, bundle: ModelBundle, drive: Drive) -> dict[str, Any]:
    """Copy labelled frames into `drive`, and return their number, size, classes and SHA-256.

    Raises:
        GosvaeError: the folder cannot be read, or has no labelled frames, or none of a class that
            the bundle knows.
    """
    source = open_source(find_split(data))
    known = np.full(256, UNLABELLED, np.uint8)
    known[bundle.labels.ids] = bundle.labels.ids
    digest = hashlib.sha256()
    count = unlabelled = 0
    seen = np.zeros(256, np.int64)
    size: tuple[int, ...] = ()
    for frame in source.frames():
        if count == most:
            break
        if frame.label is None:
            unlabelled += 1
            continue
        label = known[frame.label]
        seen += np.bincount(label.ravel(), minlength=256)
        digest.update(np.ascontiguousarray(frame.image).data)
        digest.update(np.ascontiguousarray(frame.label).data)
        drive.save("frame", count, frame.image)
        drive.save("label", count, label)
        if size not in ((), frame.image.shape[:2]):
            raise GosvaeError(
                f"{source.path}: frames of {size[1]}x{size[0]} and {frame.image.shape[1]}x"
                f"{frame.image.shape[0]} pixels; give a folder of one camera"
            )
        size = frame.image.shape[:2]
        count += 1
    if not count:
        raise GosvaeError(
            f"{source.path}: none of {unlabelled} frames has labels; give a folder in Cityscapes "
            "layout (leftImg8bit beside gtFine) or CamVid layout (NAME beside NAMEannot)"
        )
    if not seen[bundle.labels.ids].any():
        raise GosvaeError(
            f"{source.path}: its labels hold no class that {bundle.name} knows; give labels with "
            "Cityscapes' ids (*_labelIds.png), train ids (*_labelTrainIds.png) or CamVid's"
        )
    names = [each.name for each in bundle.labels.labels if seen[each.id]]
    return {
        "sha256": digest.hexdigest(),
        "frames": count,
        "unlabelled_frames_left_out": unlabelled,
        "size": f"{size[1]}x{size[0]}",
        "classes": names,
    }
