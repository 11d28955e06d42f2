"""Small generated datasets in each layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def _frame(mask: np.ndarray) -> np.ndarray:
    return np.stack([mask * 20, 255 - mask * 20, mask * 10], -1)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_camvid(root: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Four frames of 96x64 in each split, with void."""
    rng = np.random.default_rng(0)
    for split in splits:
        for index in range(4):
            coarse = rng.integers(0, 12, (4, 6), np.uint8)
            mask = np.repeat(np.repeat(coarse, 16, 0), 16, 1)
            _write(root / split / f"{index}.png", _frame(mask))
            _write(root / f"{split}annot" / f"{index}.png", mask)
    return root


def write_cityscapes(root: Path, kind: str, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Three frames of 128x64 in each split, with `kind` "labelIds" or "labelTrainIds".

    All ids occur in each split.
    """
    rng = np.random.default_rng(1)
    for split in splits:
        truth = "gtCoarse" if split == "train_extra" else "gtFine"
        ids = np.arange(34 if kind == "labelIds" else 19, dtype=np.uint8)
        coarse = rng.permutation(np.resize(ids, 3 * 4 * 8)).reshape(3, 4, 8)
        for index in range(3):
            mask = np.repeat(np.repeat(coarse[index], 16, 0), 16, 1)
            stem = f"ulm_{index:06d}_000019"
            _write(root / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png", _frame(mask))
            _write(root / truth / split / "ulm" / f"{stem}_{truth}_{kind}.png", mask)
    return root


def write_ade20k(root: Path) -> Path:
    """Two frames of different size in each split, all 151 values in the first."""
    for split in ("training", "validation"):
        for index, rows in enumerate((10, 5)):
            mask = np.repeat(np.arange(16 * rows, dtype=np.uint8) % 151, 16).reshape(rows * 4, -1)
            _write(root / "images" / split / f"ADE_{index}.jpg", _frame(mask))
            _write(root / "annotations" / split / f"ADE_{index}.png", mask)
    return root
