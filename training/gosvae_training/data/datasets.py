"""Datasets behind one interface: frames and masks in a label space, and their augmentation.

What a folder holds is known from its layout:

==========  ====================================================================================
layout      files
==========  ====================================================================================
camvid      ``<split>/*.png``, ``<split>annot/*.png`` with 11 classes (the SegNet tutorial's copy)
cityscapes  ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` with ``gtFine`` or ``gtCoarse``
            ``*_labelTrainIds.png`` or ``*_labelIds.png``
ade20k      ``images/<split>/*.jpg``, ``annotations/<split>/*.png`` (SceneParsing, 150 classes)
plain       ``images/*`` and ``masks/*.png`` of the same names, with or without a folder for each
            split in both; ids of the label space wanted, or of ``labels.yaml`` beside them
drive       a bag (folder, MCAP, sqlite3) or video, with labels or without; split ``all``
unlabelled  images in any folders; split ``all``
==========  ====================================================================================

The splits are ``train`` and ``val`` everywhere, and ``test`` and ``extra`` where they exist.
CamVid can be split by drive as well, see :mod:`gosvae_training.data.splits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gosvae_codec.errors import ImageError
from gosvae_codec.labels import (
    ADE20K,
    CAMVID,
    CITYSCAPES,
    UNLABELLED,
    LabelSpace,
    camvid_to_train_ids,
    cityscapes_to_train_ids,
    label_space,
    translate,
)
from gosvae_tools.drives.label_files import read_values

from ..config import Source
from . import splits
from .drive import OWN_TERMS, Drive, is_drive
from .samples import WHOLE, DataError, Dataset, Part, Sample, Selection

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


@dataclass(frozen=True)
class Pictures:
    """Files with frames, and files with their masks where there are any."""

    title: str
    terms: str
    frames: Sequence[Path]
    masks: Sequence[Path | None]
    table: npt.NDArray[np.uint8]
    """From ids in the files to ids of the label space wanted, uint8 (256,)."""
    palette: LabelSpace | None = None
    """Whose colours masks may be in, where they may."""

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
        mask = self._ids(annotation)
        if mask.shape != frame.shape[:2]:
            raise DataError(f"{path}: frame {frame.shape[:2]} but mask {mask.shape}")
        return Sample(rgb, self.table[mask])

    def _ids(self, file: Path) -> npt.NDArray[np.uint8]:
        """Return what a file with a mask says, uint8 (H, W), palettes and colours read as ids."""
        try:
            values = read_values(file)
        except (ImageError, OSError) as error:
            raise DataError(f"{file}: {error}") from error
        if values.ndim == 2:
            return values
        if self.palette is None:
            raise DataError(f"{file}: it is in colours, expected one 8-bit channel of ids")
        codes = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        ids = np.full(codes.shape, UNLABELLED, np.uint8)
        for label in self.palette.labels:
            red, green, blue = label.color
            ids[codes == (red << 16 | green << 8 | blue)] = label.id
        # Black is what has no label.
        if (strange := ((ids == UNLABELLED) & (codes != 0)).mean()) > 0.01:
            raise DataError(f"{file}: {strange:.0%} of it has colours that no label has")
        return ids


_CAMVID_TERMS = (
    "CamVid, the Cambridge-driving Labeled Video Database (Brostow, Fauqueur, Cipolla 2009): "
    "research and education only; weights trained on it inherit that"
)
_CITYSCAPES_TERMS = (
    "{}, in Cityscapes' layout: under its own terms, Cityscapes' being research without commerce"
)
_ADE20K_TERMS = "ADE20K SceneParsing (Zhou et al. 2017): research and education only"


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


def _plain(root: Path, split: str, labels: LabelSpace) -> Dataset:
    """Return ``images/`` with ``masks/`` of the same names, by splits or not.

    Ids are those of ``labels.yaml`` beside them, else of the label space wanted.
    """
    parts = [split] if (root / "images" / split).is_dir() else []
    if not parts and split != "all" and any(each.is_dir() for each in (root / "images").iterdir()):
        raise DataError(f"{root / 'images' / split}: no such folder; `all` takes every image")
    folder = root.joinpath("images", *parts)
    frames = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not frames:
        raise DataError(f"{folder}: no images in it")
    masks = [
        root.joinpath("masks", path.relative_to(root / "images")).with_suffix(".png")
        for path in frames
    ]
    file = root / "labels.yaml"
    source = label_space(str(file)) if file.is_file() else labels
    name = root.resolve().name
    ids = np.arange(256, dtype=np.uint8)
    found = _pairs(f"{name} {split}", OWN_TERMS.format(name), frames, masks, ids, source, labels)
    return replace(found, palette=source)


def _folder(root: Path, split: str) -> Dataset:
    if split != "all":
        raise DataError(
            f"{root}: has no split {split!r}, as its layout is none of camvid, cityscapes, ade20k "
            "and images/ with masks/; for frames without labels give the split `all`"
        )
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGES)
    if not paths:
        raise DataError(f"{root}: no images in it, nor the folders of a known layout")
    ids = np.arange(256, dtype=np.uint8)
    title, terms = f"{root.resolve().name}, unlabelled", OWN_TERMS.format(root.resolve().name)
    return Pictures(title, terms, paths, [None] * len(paths), ids)


def load_dataset(
    root: Path, split: str, labels: LabelSpace = CAMVID, part: Part = WHOLE
) -> Dataset:
    """Return one split of the dataset at `root`, its masks in ids of `labels`.

    Args:
        root: folder, or bag or video file, in a layout of this module's table.
        split: ``train``, ``val``, ``test`` or ``extra``, as far as the dataset has it; ``all`` of
            drives and of frames without labels; of CamVid also ``only-DRIVE`` and
            ``without-DRIVE``.
        labels: label space wanted; others are mapped into it by name
            (:func:`gosvae_codec.labels.translate`).
        part: which of its frames are taken.

    Raises:
        DataError: a folder or file is missing, or the layout is unknown.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if is_drive(root):
        if split != "all":
            raise DataError(f"{root}: a drive has no split {split!r}; give the split `all`")
        return Drive(root, labels, part)
    dataset = _find(root, split, labels)
    chosen = part.of(len(dataset))
    if not chosen:
        raise DataError(f"{root}: no frame of {len(dataset)} is in {part}")
    return dataset if len(chosen) == len(dataset) else Selection(dataset, chosen)


def default_split(root: Path) -> str:
    """Return ``val`` for a dataset with splits, ``all`` for a drive or frames without labels."""
    if is_drive(root):
        return "all"
    known = any((root / name).is_dir() for name in ("leftImg8bit", "annotations"))
    plain = (root / "images").is_dir() and (root / "masks").is_dir()
    split = known or any(root.glob("*annot")) or (plain and (root / "images" / "val").is_dir())
    return "val" if split else "all"


def _find(root: Path, split: str, labels: LabelSpace) -> Dataset:
    """Return one split of a folder, by its layout."""
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return _plain(root, split, labels)
    if split == "all":
        return _folder(root, split)
    if (root / "leftImg8bit").is_dir():
        return _cityscapes(root, split, labels)
    if (root / "annotations").is_dir():
        return _ade20k(root, split, labels)
    if any(root.glob("*annot")):
        return _camvid(root, split, labels)
    return _folder(root, split)


def require_folders(names: Iterable[str], folders: Mapping[str, Path]) -> None:
    """Raise DataError where the folder of a dataset is lacking."""
    missing = [name for name in names if name not in folders]
    if missing:
        raise DataError(f"no folder for {missing}: add --data {missing[0]}=PATH")


def load_sources(
    sources: Mapping[str, Source], folders: Mapping[str, Path], labels: LabelSpace
) -> dict[str, Dataset]:
    """Return the datasets of a configuration by name; raise DataError where a folder is lacking."""
    require_folders(sources, folders)
    return {
        name: load_dataset(
            folders[name],
            source.split,
            labels,
            Part(source.every, source.range, source.topic),
        )
        for name, source in sources.items()
    }


def parse_folders(names: Sequence[str], arguments: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each dataset, from ``NAME=PATH``, or ``PATH`` where there is but one.

    Raises:
        DataError: an argument names a dataset that is not among `names`, a configuration's own.
    """
    folders = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals and len(names) == 1:
            name, path = names[0], argument
        if name not in names or not path:
            raise DataError(f"--data {argument}: expected NAME=PATH with a NAME of {names}")
        folders[name] = Path(path)
    return folders
