"""Label spaces: which ids a mask holds, what they are called and how they are painted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import LabelError

UNLABELLED = 255
"""Label id of a pixel without a label, painted black and left out of every metric."""


class Label(NamedTuple):
    """One class: its id in a mask (0..254), its name and its sRGB colour (0..255 each)."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of labels; a network's channel ``k`` means ``labels[k]``."""

    name: str
    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        """Raise :class:`LabelError` for an empty space, bad ids, or ids and names used twice."""
        if not self.labels:
            raise LabelError(f"label space {self.name!r} has no labels")
        for label in self.labels:
            if not 0 <= label.id < UNLABELLED:
                raise LabelError(
                    f"label {label.name!r} of {self.name!r} has id {label.id}; ids go from 0 to 254"
                )
            if len(label.color) != 3 or not all(0 <= value <= 255 for value in label.color):
                raise LabelError(
                    f"label {label.name!r} of {self.name!r} has colour {label.color}; "
                    "give three numbers from 0 to 255"
                )
        for attribute in ("id", "name"):
            values = [getattr(label, attribute) for label in self.labels]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise LabelError(f"label space {self.name!r} has {attribute} {twice} twice")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def ids(self) -> npt.NDArray[np.uint8]:
        """Label ids in channel order, uint8 (classes,)."""
        return np.array([label.id for label in self.labels], np.uint8)

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Colour of every possible mask value, uint8 (256, 3) RGB; black where none is defined."""
        palette = np.zeros((256, 3), np.uint8)
        for label in self.labels:
            palette[label.id] = label.color
        return palette

    def by_name(self, name: str) -> Label:
        """Return the label called `name`; raise :class:`LabelError` naming what there is."""
        for label in self.labels:
            if label.name == name:
                return label
        names = ", ".join(label.name for label in self.labels)
        raise LabelError(f"label space {self.name!r} has no {name!r}; it has: {names}")

    def subset(self, name: str, names: Iterable[str]) -> LabelSpace:
        """Return the label space `name` with only the labels called `names`, in their order."""
        return LabelSpace(name, tuple(self.by_name(each) for each in names))


CITYSCAPES = LabelSpace(
    "cityscapes",
    (
        Label(0, "road", (128, 64, 128)),
        Label(1, "sidewalk", (244, 35, 232)),
        Label(2, "building", (70, 70, 70)),
        Label(3, "wall", (102, 102, 156)),
        Label(4, "fence", (190, 153, 153)),
        Label(5, "pole", (153, 153, 153)),
        Label(6, "traffic light", (250, 170, 30)),
        Label(7, "traffic sign", (220, 220, 0)),
        Label(8, "vegetation", (107, 142, 35)),
        Label(9, "terrain", (152, 251, 152)),
        Label(10, "sky", (70, 130, 180)),
        Label(11, "person", (220, 20, 60)),
        Label(12, "rider", (255, 0, 0)),
        Label(13, "car", (0, 0, 142)),
        Label(14, "truck", (0, 0, 70)),
        Label(15, "bus", (0, 60, 100)),
        Label(16, "train", (0, 80, 100)),
        Label(17, "motorcycle", (0, 0, 230)),
        Label(18, "bicycle", (119, 11, 32)),
    ),
)
"""The 19 training classes of Cityscapes with their train ids and colours (Cordts et al. 2016)."""

CITYSCAPES_IDS: Mapping[int, int] = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10},
    **{24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}
"""Train id of each id in Cityscapes' ``*_labelIds.png``; ids that are not listed have none."""

CAMVID_NAMES: Mapping[int, str] = {
    0: "sky",
    1: "building",
    2: "pole",
    3: "road",
    4: "sidewalk",
    5: "vegetation",
    6: "traffic sign",
    7: "fence",
    8: "car",
    9: "person",
    10: "rider",
}
"""Cityscapes name of each CamVid id in the SegNet tutorial's 11-class files; 11 is void there."""

CAMVID = CITYSCAPES.subset("camvid", CAMVID_NAMES.values())
"""The eleven classes that CamVid has, with Cityscapes' train ids and colours."""

LABEL_SPACES: Mapping[str, LabelSpace] = {space.name: space for space in (CITYSCAPES, CAMVID)}


def camvid_to_train_ids() -> npt.NDArray[np.uint8]:
    """Return the table from CamVid file ids to Cityscapes train ids, uint8 (256,)."""
    return _table({key: CITYSCAPES.by_name(name).id for key, name in CAMVID_NAMES.items()})


def cityscapes_to_train_ids() -> npt.NDArray[np.uint8]:
    """Return the table from ids in Cityscapes' ``*_labelIds.png`` to train ids, uint8 (256,)."""
    return _table(CITYSCAPES_IDS)


def _table(train_ids: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    table = np.full(256, UNLABELLED, np.uint8)
    for key, train_id in train_ids.items():
        table[key] = train_id
    return table
