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
CamVid can be split by drive as well, see :mod:`gosvae_training.data.splits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from gosvae_codec.labels import (
    ADE20K,
    CAMVID,
    CITYSCAPES,
    UNLABELLED,
    LabelSpace,
    camvid_to_train_ids,
    cityscapes_to_train_ids,
)

from ..config import Config, Source
from . import splits

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

    @property
    def title(self) -> str:
        """Name for people."""

    @property
    def terms(self) -> str:
        """What weights trained on it inherit."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def translate(source: LabelSpace, target: LabelSpace) -> npt.NDArray[np.uint8]:
    """Return the table from ids of `source` to ids of `target`, uint8 (256,).

    A class keeps its name, else takes its group's, else the first of its FALLBACKS that `target`
    has, else is unlabelled.
    """
    table = np.full(256, UNLABELLED, np.uint8)
    ids = {label.name: label.id for label in target.labels}
    for label in source.labels:
        name: str | None = label.name
        if name not in ids and label.group in ids:
            name = label.group
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
        rgb = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if annotation is None:
            return Sample(rgb, np.full(rgb.shape[:2], UNLABELLED, np.uint8))
        mask = cv2.imread(str(annotation), cv2.IMREAD_UNCHANGED)
        if mask is None:
            raise DataError(f"{annotation}: cannot read it as an image")
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise DataError(
                f"{annotation}: {mask.shape} of {mask.dtype}, expected one 8-bit channel of ids"
            )
        if mask.shape != frame.shape[:2]:
            raise DataError(f"{path}: frame {frame.shape[:2]} but mask {mask.shape}")
        return Sample(rgb, self.table[mask])


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
        rgb = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        return Sample(rgb, np.full(rgb.shape[:2], UNLABELLED, np.uint8))


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
    folders = splits.FOLDERS if splits.is_by_drive(split) else (split,)
    frames = [
        path
        for folder in folders
        for path in _listed(root / folder, "*.png", "the root of CamVid, 480x360 PNG")
    ]
    if splits.is_by_drive(split):
        try:
            frames = splits.select(frames, split)
        except ValueError as error:
            raise DataError(f"{root}: {error}") from error
    masks = [root / f"{path.parent.name}annot" / path.name for path in frames]
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
            frames without labels; of CamVid also ``only-DRIVE`` and ``without-DRIVE``.
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
