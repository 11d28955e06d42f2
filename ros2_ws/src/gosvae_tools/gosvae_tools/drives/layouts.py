"""Where the frames and labels of a data set are, in the layouts that its archives have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .bag_files import METADATA, is_storage
from .source import SourceError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

_CITYSCAPES = re.compile(r"_leftimg8bit$", re.IGNORECASE)
_CITYSCAPES_LABEL = re.compile(r"_gt(fine|coarse)_label(train)?ids$", re.IGNORECASE)
_LABEL_FOLDER = re.compile(
    r"(annot|annotations?|_labels?|^labels?|^masks?|^gt(fine|coarse).*|^labeledapproved_full)$",
    re.IGNORECASE,
)
_DEPTH = 8
"""Folders in folders that are looked into."""
_CAMVID_ENDINGS = ("", "_L", "_P")
"""What CamVid's label files have behind their frame's name: SegNet's none, the original's colours
``_L``, indices of all 32 classes ``_P``."""


class Layout(NamedTuple):
    """Frames in natural order, each one's label if any, and why there are none."""

    name: str
    files: list[Path]
    label_of: Callable[[Path], Path | None]
    without_labels: str
    notes: tuple[str, ...] = ()
    is_plain: bool = False
    """Whether label files hold ids as they are; see :func:`_plain`."""


def find_layout(path: Path) -> Layout:
    """Find the frames in a folder, or in the folders in it, and their labels.

    Raises:
        SourceError: there are no frames.
    """
    if (path / "images").is_dir() and (path / "masks").is_dir():
        return _plain(path)
    images = sorted(_images(path), key=_natural)
    cityscapes = [file for file in images if _CITYSCAPES.search(file.stem)]
    if cityscapes:
        return _cityscapes(path, cityscapes, images)
    files = [file for file in images if file.parent == path] or [
        file
        for file in images
        if not any(map(_LABEL_FOLDER.search, file.relative_to(path).parts[:-1]))
    ]
    if not files:
        raise SourceError(f"{path} has no images in it; {_hint(path)}")
    there = {file.with_suffix("") for file in files}
    files = [file for file in files if _frame_beside(file) not in there]
    return _camvid(path, files)


def _plain(path: Path) -> Layout:
    """Return ``images/`` with ``masks/`` of the same names: ids of a label space of their own."""
    files = sorted(_images(path / "images"), key=_natural)
    if not files:
        raise SourceError(f"{path / 'images'} has no images in it; {_hint(path)}")

    def label_of(file: Path) -> Path | None:
        label = path.joinpath("masks", file.relative_to(path / "images")).with_suffix(".png")
        return label if label.is_file() else None

    reason = f"{path / 'masks'} has no PNG file of a frame's name, such as {files[0].stem}.png"
    return Layout("images and masks", files, label_of, reason, is_plain=True)


def is_image(file: Path) -> bool:
    """Tell whether a file is one of images by its name."""
    # macOS leaves a "._<name>" beside each file that it copies.
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _images(path: Path) -> Iterator[Path]:
    """Yield the images in a folder and in the folders in it, linked ones included."""
    seen = {os.path.realpath(path)}
    for folder, folders, names in os.walk(path, followlinks=True):
        # Links may lead back, or far away.
        deep = len(Path(folder).relative_to(path).parts) >= _DEPTH
        places = {each: os.path.realpath(Path(folder, each)) for each in folders}
        folders[:] = [
            each for each, place in places.items() if not (deep or place in seen or each[0] == ".")
        ]
        seen.update(places.values())
        yield from filter(is_image, (Path(folder, name) for name in names))


def _both(folder: Path) -> tuple[Path, Path]:
    """Return where a folder is by name, and where it is by its links."""
    return Path(os.path.abspath(folder)), folder.resolve()


def _frame_beside(file: Path) -> Path | None:
    """Return what the frame is called whose CamVid label lies beside it, if it is one."""
    stem = file.with_suffix("")
    return stem.with_name(stem.name[:-2]) if stem.name.endswith(("_L", "_P")) else None


def _hint(path: Path) -> str:
    bags = [file.parent for file in path.glob(f"*/{METADATA}")]
    bags = bags or [file for file in path.glob("*/*") if is_storage(file)]
    names = ", ".join(sorted(map(str, bags)))
    return f"give one of its bags: {names}" if bags else "give a folder with images"


def _cityscapes(path: Path, files: list[Path], images: list[Path]) -> Layout:
    # The archives hold leftImg8bit_trainvaltest/leftImg8bit and gtFine_trainvaltest/gtFine.
    folders = dict.fromkeys(each for file in files for each in _both(file.parent))
    named = {
        above
        for folder in folders
        for above in (folder, *folder.parents)
        if above.name.lower().startswith("leftimg8bit")
    }
    tops = {path, *(each.parent for each in named)}
    roots = sorted(
        {
            each.resolve()
            for top in tops
            for each in top.glob("*")
            if each.is_dir() and re.match("gt(fine|coarse)", each.name, re.IGNORECASE)
        }
    )
    labels: dict[str, Path] = {}
    for file in (*images, *(file for root in roots for file in _images(root))):
        if found := _CITYSCAPES_LABEL.search(file.stem):
            name = file.stem[: found.start()].lower()
            # Train ids go before ids, and fine labels before coarse ones.
            labels[name] = min(labels.get(name, file), file, key=_label_rank)

    def label_of(file: Path) -> Path | None:
        return labels.get(_CITYSCAPES.sub("", file.stem).lower())

    if labels:
        where = ", ".join(map(str, roots)) or str(path)
        reason = f"the {len(labels)} labels in {where} are of other frames"
    elif roots:
        reason = f"no *_labelIds.png or *_labelTrainIds.png in {', '.join(map(str, roots))}"
    else:
        reason = f"no folder gtFine* or gtCoarse* in {', '.join(sorted(map(str, tops)))}"
    return Layout("Cityscapes", files, label_of, reason)


def _label_rank(file: Path) -> tuple[bool, bool]:
    name = file.name.lower()
    return "gtfine" not in name, "trainids" not in name


def _camvid(path: Path, files: list[Path]) -> Layout:
    labels: dict[Path, dict[str, Path]] = {}
    looked: list[Path] = []
    there: list[Path] = []
    for parent in dict.fromkeys(file.parent for file in files):
        folders = list(dict.fromkeys(each for at in _both(parent) for each in _label_folders(at)))
        looked += folders
        there += [each for each in folders if each.is_dir()]
        places = [parent, *(each for each in reversed(folders) if each.is_dir())]
        labels[parent] = _by_stem(file for each in places for file in each.iterdir())

    def label_of(file: Path) -> Path | None:
        stems = (f"{file.stem}{ending}".lower() for ending in _CAMVID_ENDINGS)
        found = (labels[file.parent].get(stem) for stem in stems)
        return next((each for each in found if each is not None and each != file), None)

    if there:
        count = sum(file.parent != parent for parent in labels for file in labels[parent].values())
        example = f"{files[0].stem}.png"
        names = ", ".join(map(str, there))
        reason = f"{names} has {count} PNG files, but none for a frame, such as {example}"
    else:
        reason = f"none of {', '.join(each.name for each in looked)} is beside {files[0].parent}"
    notes: tuple[str, ...] = ()
    if len(labels) > 1:
        names = ", ".join(str(parent.relative_to(path)) for parent in labels)
        notes = (f"{path}: frames of {len(labels)} folders, one after the other: {names}",)
    return Layout("CamVid" if there else "images", files, label_of, reason, notes)


def _label_folders(folder: Path) -> list[Path]:
    """Return where labels of the frames in a folder may be, the likeliest first."""
    names = [f"{folder.name}annot", f"{folder.name}_labels"]
    if folder.name.lower() in ("images", "701_stillsraw_full"):
        names += ["labels", "LabeledApproved_full"]
    return [folder.with_name(name) for name in names]


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    return {
        file.stem.lower(): file
        for file in files
        if is_image(file) and file.suffix.lower() == ".png"
    }


def _natural(file: Path) -> list[Any]:
    """Sort key by which frame_9 comes before frame_10."""
    parts = re.split(r"(\d+)", str(file))
    return [int(part) if part.isdigit() else part for part in parts]
