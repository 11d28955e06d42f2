"""Datasets behind one interface: frames and masks in a label space, and their augmentation.

What a folder holds is known from its layout:

==========  ====================================================================================
layout      files
==========  ====================================================================================
camvid      ``<split>/*.png``, ``<split>annot/*.png`` with 11 classes (the SegNet tutorial's copy)
cityscapes  ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` with ``gtFine`` or ``gtCoarse``
            ``*_labelTrainIds.png`` or ``*_labelIds.png``
ade20k      ``images/<split>/*.jpg``, ``annotations/<split>/*.png`` (SceneParsing, 150 classes)
unlabelled  images in any folders, or one video file; split ``all``
==========  ====================================================================================

The splits are ``train`` and ``val`` everywhere, and ``test`` and ``extra`` where they exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from gosvae_codec.labels import (
    ADE20K,
    CAMVID,
    CITYSCAPES,
    UNLABELLED,
    LabelSpace,
    camvid_to_train_ids,
    cityscapes_to_train_ids,
)

from .config import Config, Source

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
VIDEOS = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm"})

FALLBACKS: Mapping[str, str] = {
    # CamVid's own grouping of 32 classes into 11, as far as it joins classes of Cityscapes.
    "wall": "building",
    "traffic light": "traffic sign",
    "terrain": "vegetation",
    "truck": "car",
    "bus": "car",
    "train": "car",
    "motorcycle": "rider",
    "bicycle": "rider",
    # ADE20K's names for classes of Cityscapes.
    "tree": "vegetation",
    "plant": "vegetation",
    "palm": "vegetation",
    "grass": "terrain",
    "earth": "terrain",
    "house": "building",
    "skyscraper": "building",
    "streetlight": "pole",
    "signboard": "traffic sign",
    "minibike": "motorcycle",
    "van": "car",
}
"""What a class becomes, step by step, in a label space that lacks its name."""


class DataError(Exception):
    """A dataset folder is missing, incomplete or contradicts itself."""


class Sample(NamedTuple):
    """One frame: uint8 (H, W, 3) RGB and its mask, uint8 (H, W) of label ids."""

    frame: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float16] | None = None
    """An expert's, float16 (H/4, W/4, classes), where it was asked before."""


class Dataset(Protocol):
    """A sequence of samples that are decoded when they are asked for."""

    title: str
    """Name for people."""
    terms: str
    """What weights trained on it inherit."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def translate(source: LabelSpace, target: LabelSpace) -> npt.NDArray[np.uint8]:
    """Return the table from ids of `source` to ids of `target`, uint8 (256,).

    A class keeps its name, else takes the first of its FALLBACKS that `target` has, else is
    unlabelled.
    """
    table = np.full(256, UNLABELLED, np.uint8)
    ids = {label.name: label.id for label in target.labels}
    for label in source.labels:
        name: str | None = label.name
        while name is not None and name not in ids:
            name = FALLBACKS.get(name)
        if name is not None:
            table[label.id] = ids[name]
    return table


@dataclass(frozen=True)
class Pictures:
    """Files with frames, and files with their masks where there are any."""

    title: str
    terms: str
    frames: Sequence[Path]
    masks: Sequence[Path | None]
    table: npt.NDArray[np.uint8]
    """From ids in the files to ids of the label space wanted, uint8 (256,)."""

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        """Decode one sample; raise DataError where a file is unreadable or sizes differ."""
        path, annotation = self.frames[index], self.masks[index]
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if frame is None:
            raise DataError(f"{path}: cannot read it as an image")
        frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if annotation is None:
            return Sample(frame, np.full(frame.shape[:2], UNLABELLED, np.uint8))
        mask = cv2.imread(str(annotation), cv2.IMREAD_UNCHANGED)
        if mask is None:
            raise DataError(f"{annotation}: cannot read it as an image")
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise DataError(
                f"{annotation}: {mask.shape} of {mask.dtype}, expected one 8-bit channel of ids"
            )
        if mask.shape != frame.shape[:2]:
            raise DataError(f"{path}: frame {frame.shape[:2]} but mask {mask.shape}")
        return Sample(frame, self.table[mask])


@dataclass
class Video:
    """Frames of a video file, none of which has a label."""

    title: str
    terms: str
    path: Path
    length: int
    _capture: cv2.VideoCapture | None = field(default=None, repr=False)
    _next: int = 0

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, object]:
        """Leave the open file behind when a worker process gets a copy."""
        return {**self.__dict__, "_capture": None}

    def __getitem__(self, index: int) -> Sample:
        """Decode one frame; raise DataError where the video cannot be read there."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        if self._capture is None:
            self._capture, self._next = cv2.VideoCapture(str(self.path)), 0
        if index != self._next:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        good, frame = self._capture.read()
        if not good:
            raise DataError(f"{self.path}: cannot read frame {index}")
        self._next = index + 1
        frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        return Sample(frame, np.full(frame.shape[:2], UNLABELLED, np.uint8))


_CAMVID_TERMS = (
    "CamVid, the Cambridge-driving Labeled Video Database (Brostow, Fauqueur, Cipolla 2009): "
    "research and education only; weights trained on it inherit that"
)
_CITYSCAPES_TERMS = (
    "{}, in Cityscapes' layout: under its own terms, Cityscapes' being research without commerce"
)
_ADE20K_TERMS = "ADE20K SceneParsing (Zhou et al. 2017): research and education only"
_UNLABELLED_TERMS = "{}: under its own terms"


def _pairs(
    title: str,
    terms: str,
    frames: list[Path],
    masks: list[Path],
    source: npt.NDArray[np.uint8],
    space: LabelSpace,
    labels: LabelSpace,
) -> Pictures:
    missing = [path for path in masks if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: no such file, nor {len(missing) - 1} other masks")
    # Ids of the file to those of its own space, and on to those wanted; 255 stays.
    return Pictures(title, terms, frames, masks, translate(space, labels)[source])


def _camvid(root: Path, split: str, labels: LabelSpace) -> Dataset:
    frames = _listed(root / split, "*.png", "the root of CamVid, 480x360 PNG")
    masks = [root / f"{split}annot" / path.name for path in frames]
    title, table = f"CamVid {split}", camvid_to_train_ids()
    return _pairs(title, _CAMVID_TERMS, frames, masks, table, CITYSCAPES, labels)


def _cityscapes(root: Path, split: str, labels: LabelSpace) -> Dataset:
    folder = {"extra": "train_extra"}.get(split, split)
    ending = "_leftImg8bit.png"
    pattern = f"*/*{ending}"
    frames = _listed(root / "leftImg8bit" / folder, pattern, "a dataset in Cityscapes' layout")
    first = frames[0]
    for truth in ("gtFine", "gtCoarse"):
        for kind, table in (
            ("labelTrainIds", np.arange(256, dtype=np.uint8)),
            ("labelIds", cityscapes_to_train_ids()),
        ):

            def mask(path: Path, truth: str = truth, kind: str = kind) -> Path:
                stem = path.name.removesuffix(ending)
                name = f"{stem}_{truth}_{kind}.png"
                return root / truth / folder / path.parent.name / name

            if mask(first).is_file():
                masks = [mask(path) for path in frames]
                name = root.resolve().name
                terms = _CITYSCAPES_TERMS.format(name)
                return _pairs(f"{name} {split}", terms, frames, masks, table, CITYSCAPES, labels)
    raise DataError(
        f"{root}: no masks for {first.name} in gtFine/{folder} or gtCoarse/{folder}, neither "
        "*_labelTrainIds.png nor *_labelIds.png"
    )


def _ade20k(root: Path, split: str, labels: LabelSpace) -> Dataset:
    folder = {"train": "training", "val": "validation"}.get(split, split)
    frames = _listed(root / "images" / folder, "*.jpg", "the root of ADE20K (SceneParsing)")
    masks = [root / "annotations" / folder / f"{path.stem}.png" for path in frames]
    # 0 means none of the 150 classes, which start at 1.
    ids = np.full(256, UNLABELLED, np.uint8)
    ids[1 : len(ADE20K) + 1] = ADE20K.ids
    return _pairs(f"ADE20K {split}", _ADE20K_TERMS, frames, masks, ids, ADE20K, labels)


def _listed(folder: Path, pattern: str, wanted: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give {wanted}")
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DataError(f"{folder}: no files {pattern}; give {wanted}")
    return paths


def _unlabelled(root: Path, split: str) -> Dataset:
    if split != "all":
        raise DataError(
            f"{root}: has no split {split!r}, as its layout is none of camvid, cityscapes and "
            "ade20k; to train on it without labels give it the split `all`"
        )
    if root.is_file():
        length = int(cv2.VideoCapture(str(root)).get(cv2.CAP_PROP_FRAME_COUNT))
        if length < 1:
            raise DataError(f"{root}: cannot read it as a video")
        return Video(f"{root.name}, unlabelled", _UNLABELLED_TERMS.format(root.name), root, length)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGES)
    if not paths:
        raise DataError(f"{root}: no images in it, nor the folders of a known layout")
    ids = np.arange(256, dtype=np.uint8)
    title, terms = f"{root.name}, unlabelled", _UNLABELLED_TERMS.format(root.name)
    return Pictures(title, terms, paths, [None] * len(paths), ids)


def load_dataset(root: Path, split: str, labels: LabelSpace = CAMVID) -> Dataset:
    """Return one split of the dataset at `root`, its masks in ids of `labels`.

    Args:
        root: folder, or video file, in a layout of this module's table.
        split: ``train``, ``val``, ``test`` or ``extra``, as far as the dataset has it; ``all`` of
            frames without labels.
        labels: label space wanted; others are mapped into it by name (:func:`translate`).

    Raises:
        DataError: a folder or file is missing, or the layout is unknown.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if split == "all":
        return _unlabelled(root, split)
    if (root / "leftImg8bit").is_dir():
        return _cityscapes(root, split, labels)
    if (root / "annotations").is_dir():
        return _ade20k(root, split, labels)
    if any(root.glob("*annot")):
        return _camvid(root, split, labels)
    return _unlabelled(root, split)


class Concatenation:
    """Several datasets one after another."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = parts
        self.title = " and ".join(part.title for part in parts)
        self.terms = "; ".join(dict.fromkeys(part.terms for part in parts))
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, "right"))
        return self.parts[part][index - int(self._ends[part]) + len(self.parts[part])]


def load_sources(
    sources: Mapping[str, Source], folders: Mapping[str, Path], labels: LabelSpace
) -> dict[str, Dataset]:
    """Return the datasets of a configuration by name; raise DataError where a folder is lacking."""
    missing = [name for name in sources if name not in folders]
    if missing:
        raise DataError(f"no folder for {missing}: add --data {missing[0]}=PATH")
    return {
        name: load_dataset(folders[name], source.split, labels) for name, source in sources.items()
    }


def parse_folders(config: Config, arguments: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each dataset, from ``NAME=PATH``, or ``PATH`` where there is but one.

    Raises:
        DataError: an argument names a dataset that the configuration does not have.
    """
    names, folders = config.data.names(), {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals and len(names) == 1:
            name, path = names[0], argument
        if name not in names or not path:
            raise DataError(f"--data {argument}: expected NAME=PATH with a NAME of {names}")
        folders[name] = Path(path)
    return folders


def describe(dataset: Dataset) -> str:
    """Return what a dataset holds, for instance ``CamVid val, 101 frames at 480x360``.

    Only its first and last frames are looked at.
    """
    height, width = dataset[0].mask.shape
    same = dataset[len(dataset) - 1].mask.shape == (height, width)
    size = f"at {width}x{height}" if same else "of several sizes"
    return f"{dataset.title}, {len(dataset)} frames {size}"


def iterate(dataset: Dataset, at_most: int | None = None) -> Iterator[Sample]:
    """Yield the samples of a dataset in order, or about `at_most` evenly spaced ones."""
    step = 1 if at_most is None else max(len(dataset) // at_most, 1)
    for index in range(0, len(dataset), step):
        yield dataset[index]


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

    What falls outside the frame repeats its edge and is unlabelled in the mask. Where there are
    logits, they come along at a quarter of the sides, and the mask is at half of them.
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
        return Sample(_jitter(frame, rng), mask)
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
    return Sample(_jitter(frame, rng), mask, np.concatenate(planes, 2))


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


def recompress(frame: np.ndarray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a frame, uint8 (H, W, 3) RGB, as a receiver of pictures has it.

    JPEG, WebP or AVIF of any quality, low ones more often; one in three at half of its sides.
    """
    size = frame.shape[1::-1]
    if rng.random() < 1 / 3:
        half = (size[0] // 2, size[1] // 2)
        frame = cv2.resize(frame, half, interpolation=cv2.INTER_AREA)
    ending, parameters, (low, high) = PICTURE_CODECS[rng.integers(len(PICTURE_CODECS))]
    quality = round(low + (high - low) * rng.random() ** 1.5)
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    _, coded = cv2.imencode(ending, bgr, [*parameters, quality])
    made = cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    if made.shape[1::-1] != size:
        made = cv2.resize(made, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(made, np.uint8)


class RandomCrops(torch.utils.data.Dataset):
    """Endless-looking dataset of augmented crops; item `i` of seed `s` is always the same.

    Items are (uint8 (h, w, 3) RGB, int64 (h, w) channel index or 255). Frames are first brought
    to the height `rows`, at which the network will see them. Where the samples have an expert's
    logits, items are (uint8 (h, w, 3), int64 (h/2, w/2), float32 (classes, h/4, w/4)). A share
    `compression` of the crops comes through a codec, at the scale that the network sees.
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
    ) -> None:
        self._samples = samples
        self._compression = compression
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
        return *item, torch.from_numpy(crop.logits.transpose(2, 0, 1))


def fit_rows(sample: Sample, rows: int) -> Sample:
    """Return a sample scaled to a height of `rows`, its aspect ratio kept."""
    height, width = sample.mask.shape
    if height == rows:
        return sample
    size = (max(round(width * rows / height), 1), rows)
    smooth = cv2.INTER_AREA if rows < height else cv2.INTER_LINEAR
    return Sample(
        cv2.resize(sample.frame, size, interpolation=smooth),
        cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST),
    )


class Taught:
    """Samples at the height that networks see them at, in memory, with an expert's logits."""

    def __init__(
        self, samples: Dataset, rows: int, teach: Callable[[np.ndarray], np.ndarray], file: Path
    ) -> None:
        """Ask the expert once for each frame, or read what it said.

        Args:
            samples: what to keep.
            rows: height that frames are brought to.
            teach: uint8 (H, W, 3) -> logits (H/4, W/4, classes).
            file: NPZ file with an array for each frame, written if there is none; its name has to
                tell apart experts and samples.
        """
        self.title, self.terms = samples.title, samples.terms
        fitted = [fit_rows(sample, rows) for sample in iterate(samples)]
        if not file.exists():
            progress = tqdm(fitted, desc="expert's logits", unit="frame")
            made = [teach(sample.frame).astype(np.float16) for sample in progress]
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez(part, *made)
            part.replace(file)
        with np.load(file) as logits:
            self._samples = [
                sample._replace(logits=logits[f"arr_{index}"])
                for index, sample in enumerate(fitted)
            ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


class Mixture(torch.utils.data.Dataset):
    """Items of several datasets, interleaved by their shares, always in the same order."""

    _PERIOD = 1000

    def __init__(self, parts: Sequence[torch.utils.data.Dataset], shares: Sequence[float]) -> None:
        self._parts = parts
        whole = self._PERIOD * np.asarray(shares) / sum(shares)
        # Rounded so that their sum stays: by the ends of the shares laid end to end.
        ends = np.rint(np.cumsum(whole)).astype(int)
        self._counts = np.diff(ends, prepend=0)
        places = np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in self._counts])
        owners = np.repeat(np.arange(len(parts)), self._counts)
        self._owners = owners[np.argsort(places, kind="stable")]
        self._ranks = np.zeros(self._PERIOD, int)
        for part in range(len(parts)):
            own = self._owners == part
            self._ranks[own] = np.arange(own.sum())

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        period, place = divmod(index, self._PERIOD)
        part = self._owners[place]
        return self._parts[part][int(period * self._counts[part] + self._ranks[place])]
