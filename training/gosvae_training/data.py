"""Datasets: frames and masks in Cityscapes train ids, and their augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from gosvae_codec.labels import UNLABELLED, camvid_to_train_ids


class DataError(Exception):
    """A dataset folder is missing, incomplete or contradicts itself."""


class Sample(NamedTuple):
    """One frame: uint8 (H, W, 3) RGB and its mask, uint8 (H, W) of train ids."""

    frame: np.ndarray
    mask: np.ndarray


def load_camvid(root: Path, split: str) -> list[Sample]:
    """Read one split of CamVid in the SegNet tutorial's layout into memory.

    Args:
        root: folder with ``<split>/*.png`` and ``<split>annot/*.png``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DataError: a folder or file is missing, unreadable, or sizes differ.
    """
    images, masks = root / split, root / f"{split}annot"
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the root of CamVid, 480x360 PNG")
    paths = sorted(images.glob("*.png"))
    if not paths:
        raise DataError(f"{images}: no PNG files")
    to_train_ids = camvid_to_train_ids()
    samples = []
    for path in tqdm(paths, desc=f"CamVid {split}", unit="frame", leave=False):
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
        mask = cv2.imread(str(masks / path.name), cv2.IMREAD_UNCHANGED)
        if frame is None or mask is None:
            raise DataError(f"{path.name}: cannot read it in {images if frame is None else masks}")
        if mask.shape != frame.shape[:2]:
            raise DataError(f"{path.name}: frame {frame.shape[:2]} but mask {mask.shape}")
        samples.append(Sample(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), to_train_ids[mask]))
    return samples


def describe(split: str, samples: list[Sample]) -> str:
    """Return what was read from CamVid, for instance ``CamVid val, 101 frames at 480x360``."""
    sizes = sorted({sample.mask.shape for sample in samples})
    joined = " and ".join(f"{width}x{height}" for height, width in sizes)
    return f"CamVid {split}, {len(samples)} frames at {joined}"


def _jitter(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pixels = frame.astype(np.float32)
    gain = rng.uniform(0.6, 1.4) * rng.uniform(0.92, 1.08, 3)
    pixels *= gain.astype(np.float32)
    mean = pixels.mean()
    pixels = (pixels - mean) * np.float32(rng.uniform(0.7, 1.3)) + mean
    gray = pixels @ np.float32([0.299, 0.587, 0.114])
    saturation = np.float32(rng.uniform(0.4, 1.4))
    pixels = gray[..., None] + (pixels - gray[..., None]) * saturation
    if rng.random() < 0.2:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < 0.2:
        noise = rng.standard_normal((*pixels.shape[:2], 1), np.float32)
        pixels += np.float32(rng.uniform(2, 8)) * noise
    return np.clip(pixels, 0, 255).astype(np.uint8)


def augment(sample: Sample, size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """Return a random crop of `size` (height, width): scaled, flipped, turned, recoloured.

    What falls outside the frame repeats its edge and is unlabelled in the mask.
    """
    height, width = sample.mask.shape
    scale = np.exp(rng.uniform(np.log(0.6), np.log(1.8)))
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    angle = np.deg2rad(rng.uniform(-4, 4))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = linear @ np.diag([flip * scale * stretch, scale / stretch])
    reach = np.maximum(np.array([width, height]) - np.array(size[::-1]) / scale, 0) / 2
    center = np.array([width, height]) / 2 + rng.uniform(-1, 1, 2) * reach
    offset = np.array(size[::-1]) / 2 - linear @ center
    matrix = np.concatenate([linear, offset[:, None]], axis=1)
    frame = cv2.warpAffine(
        sample.frame, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    mask = cv2.warpAffine(
        sample.mask, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderValue=UNLABELLED
    )
    return Sample(_jitter(frame, rng), mask)


class RandomCrops(torch.utils.data.Dataset):
    """Endless-looking dataset of augmented crops; item `i` of seed `s` is always the same.

    Items are (uint8 (h, w, 3) RGB, int64 (h, w) channel index or 255).
    """

    def __init__(
        self, samples: list[Sample], ids: np.ndarray, size: tuple[int, int], length: int, seed: int
    ) -> None:
        self._samples = samples
        self._size = size
        self._length = length
        self._seed = seed
        self._channel = np.full(256, UNLABELLED, np.int64)
        self._channel[ids] = np.arange(len(ids))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, place = divmod(index, len(self._samples))
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._samples))
        rng = np.random.default_rng((self._seed, epoch, place))
        crop = augment(self._samples[order[place]], self._size, rng)
        return torch.from_numpy(crop.frame), torch.from_numpy(self._channel[crop.mask])
