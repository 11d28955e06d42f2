"""Random crops of a dataset, augmented."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from gosvae_codec.labels import UNLABELLED, LabelSpace

from .boxes import draw_maps, move_boxes
from .samples import Dataset, Sample

Frame = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""


def _bytes(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an 8-bit image as what it is; OpenCV's annotations leave its type open."""
    return np.asarray(image, np.uint8)


def recolor(frame: Frame, rng: np.random.Generator) -> Frame:
    """Return a frame with other brightness, contrast and colours, some blurred or noisy."""
    pixels: npt.NDArray[np.float32] = frame.astype(np.float32)
    gain = rng.uniform(0.6, 1.4) * rng.uniform(0.92, 1.08, 3)
    pixels *= gain.astype(np.float32)
    mean = pixels.mean()
    pixels = (pixels - mean) * np.float32(rng.uniform(0.7, 1.3)) + mean
    gray = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = np.float32(rng.uniform(0.4, 1.4))
    pixels = gray[..., None] + (pixels - gray[..., None]) * saturation
    if rng.random() < 0.2:
        blurred = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.2))
        pixels = np.asarray(blurred, np.float32)
    if rng.random() < 0.2:
        noise = rng.standard_normal((*pixels.shape[:2], 1), np.float32)
        pixels += np.float32(rng.uniform(2, 8)) * noise
    clipped: Frame = np.clip(pixels, 0, 255).astype(np.uint8)
    return clipped


def augment(sample: Sample, size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """Return a random crop of `size` (height, width): scaled, flipped, turned, recoloured.

    What falls outside the frame repeats its edge and is unlabelled in the mask. Where there are
    logits, they come along at a quarter of the sides, and the mask is at half of them. Boxes come
    along with logits.
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
    if sample.logits is None:
        mask = cv2.warpAffine(
            sample.mask, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderValue=UNLABELLED
        )
        return Sample(recolor(_bytes(frame), rng), _bytes(mask))
    half, quarter = ((size[1] // part, size[0] // part) for part in (2, 4))
    mask = cv2.warpAffine(
        sample.mask,
        _at_parts(matrix, 1, 2),
        half,
        flags=cv2.INTER_NEAREST,
        borderValue=UNLABELLED,
    )
    smaller = _at_parts(matrix, 4, 4)
    planes = [
        cv2.warpAffine(
            np.ascontiguousarray(sample.logits[..., first : first + 4], np.float32),
            smaller,
            quarter,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ).reshape(*quarter[::-1], -1)
        for first in range(0, sample.logits.shape[2], 4)
    ]
    boxes = sample.boxes
    if boxes is not None:
        boxes = move_boxes(boxes, matrix, (height, width), size)
    return Sample(recolor(_bytes(frame), rng), _bytes(mask), np.concatenate(planes, 2), boxes)


def _at_parts(matrix: npt.NDArray[np.float64], source: int, target: int) -> np.ndarray:
    """Return an affine map of pixels as one of pixels `source` and `target` times as large.

    Pixels are counted from their centres.
    """
    linear, offset = matrix[:, :2], matrix[:, 2]
    centred = linear @ np.full(2, (source - 1) / 2) + offset - (target - 1) / 2
    return np.concatenate([linear * source, centred[:, None]], axis=1) / target


PICTURE_CODECS = (
    (".jpg", (cv2.IMWRITE_JPEG_QUALITY,), (5, 95)),
    (".webp", (cv2.IMWRITE_WEBP_QUALITY,), (1, 95)),
    (".avif", (cv2.IMWRITE_AVIF_SPEED, 9, cv2.IMWRITE_AVIF_QUALITY), (5, 85)),
)
"""File ending, OpenCV's parameters up to the quality, and the lowest and highest of it."""


def recompress(frame: Frame, rng: np.random.Generator) -> Frame:
    """Return a frame, uint8 (H, W, 3) RGB, as a receiver of pictures has it.

    JPEG, WebP or AVIF of any quality, low ones more often; one in three at half of its sides.
    """
    size = frame.shape[1::-1]
    if rng.random() < 1 / 3:
        half = (size[0] // 2, size[1] // 2)
        frame = _bytes(cv2.resize(frame, half, interpolation=cv2.INTER_AREA))
    ending, parameters, (low, high) = PICTURE_CODECS[rng.integers(len(PICTURE_CODECS))]
    quality = round(low + (high - low) * rng.random() ** 1.5)
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    _, coded = cv2.imencode(ending, bgr, [*parameters, quality])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    made = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    if made.shape[1::-1] != size:
        made = cv2.resize(made, size, interpolation=cv2.INTER_CUBIC)
    return _bytes(made)


class Items(torch.utils.data.Dataset[tuple[torch.Tensor, ...]]):
    """What a run takes its batches from, in order."""

    def __len__(self) -> int:
        raise NotImplementedError


class RandomCrops(Items):
    """Endless-looking dataset of augmented crops; item `i` of seed `s` is always the same.

    Items are (uint8 (h, w, 3) RGB, int64 (h, w) channel index or 255). Frames are first brought
    to the height `rows`, at which the network will see them. Where the samples have an expert's
    logits, items are (uint8 (h, w, 3), int64 (h/2, w/2), float32 (classes, h/4, w/4)); with
    `detected` classes of boxes, the maps of these stand behind the logits, see :func:`draw_maps`. A
    share `compression` of the crops comes through a codec, at the scale that the network sees.
    """

    def __init__(
        self,
        samples: Dataset,
        labels: LabelSpace,
        rows: int,
        size: tuple[int, int],
        length: int,
        seed: int,
        compression: float = 0.0,
        detected: int = 0,
    ) -> None:
        self._samples = samples
        self._compression = compression
        self._detected = detected
        self._rows = rows
        self._size = size
        self._length = length
        self._seed = seed
        self._channel = np.full(256, UNLABELLED, np.int64)
        self._channel[labels.ids] = np.arange(len(labels))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        epoch, place = divmod(index, len(self._samples))
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._samples))
        rng = np.random.default_rng((self._seed, epoch, place))
        sample = fit_rows(self._samples[int(order[place])], self._rows)
        crop = augment(sample, self._size, rng)
        if rng.random() < self._compression:
            crop = crop._replace(frame=recompress(crop.frame, rng))
        item = torch.from_numpy(crop.frame), torch.from_numpy(self._channel[crop.mask])
        if crop.logits is None:
            return item
        logits = crop.logits.transpose(2, 0, 1)
        if self._detected:
            assert crop.boxes is not None
            logits = np.concatenate([logits, draw_maps(crop.boxes, self._detected, self._size)])
        return *item, torch.from_numpy(logits)


def fit_rows(sample: Sample, rows: int) -> Sample:
    """Return a sample scaled to a height of `rows`, its aspect ratio kept."""
    height, width = sample.mask.shape
    if height == rows:
        return sample
    size = (max(round(width * rows / height), 1), rows)
    smooth = cv2.INTER_AREA if rows < height else cv2.INTER_LINEAR
    return Sample(
        _bytes(cv2.resize(sample.frame, size, interpolation=smooth)),
        _bytes(cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST)),
    )
