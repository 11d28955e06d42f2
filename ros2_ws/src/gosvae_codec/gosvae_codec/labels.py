"""Label spaces: the ids in a mask with their names and colours."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from .errors import LabelError

UNLABELLED = 255
"""Label id of pixels without a label; shown in black and ignored by all metrics."""


class Label(NamedTuple):
    """One class: its id in a mask (0..254), its name and its sRGB colour (0..255 each)."""

    id: int
    name: str
    color: tuple[int, int, int]
    group: str = ""
    """Name of the class that it is part of, in label spaces that lack its own name."""


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of labels; a network's channel ``k`` means ``labels[k]``."""

    name: str
    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        """Raise :class:`LabelError` for an empty space, invalid ids, or duplicate ids and names."""
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
        """Colour of every mask value, uint8 (256, 3) RGB; black for undefined values."""
        palette = np.zeros((256, 3), np.uint8)
        for label in self.labels:
            palette[label.id] = label.color
        return palette

    def by_name(self, name: str) -> Label:
        """Return the label called `name`.

        Raises:
            LabelError: there is none; the message lists the names.
        """
        for label in self.labels:
            if label.name == name:
                return label
        names = ", ".join(label.name for label in self.labels)
        raise LabelError(f"label space {self.name!r} has no {name!r}; it has: {names}")

    def subset(self, name: str, names: Iterable[str]) -> LabelSpace:
        """Return a label space called `name` with only the labels called `names`, in that order.

        Raises:
            LabelError: one of them does not exist.
        """
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
"""Train ids by the ids in Cityscapes' ``*_labelIds.png``; all others are unlabelled."""

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
"""Cityscapes names by the ids in the SegNet tutorial's 11-class CamVid files; 11 is void."""

CAMVID = CITYSCAPES.subset("camvid", CAMVID_NAMES.values())
"""The eleven classes of CamVid with Cityscapes' train ids and colours."""

_ADE20K = """
wall 787878, building b47878, sky 06e6e6, floor 503232, tree 04c803, ceiling 787850, road
8c8c8c, bed cc05ff, windowpane e6e6e6, grass 04fa07, cabinet e005ff, sidewalk ebff07, person
96053d, earth 787846, door 08ff33, table ff0652, mountain 8fff8c, plant ccff04, curtain ff3307,
chair cc4603, car 0066c8, water 3de6fa, painting ff0633, sofa 0b66ff, shelf ff0747, house
ff09e0, sea 0907e6, mirror dcdcdc, rug ff095c, field 7009ff, armchair 08ffd6, seat 07ffe0, fence
ffb806, desk 0aff47, rock ff290a, wardrobe 07ffff, lamp e0ff08, bathtub 6608ff, railing ff3d06,
cushion ffc207, base ff7a08, box 00ff14, column ff0829, signboard ff0599, chest of drawers
0633ff, counter eb0cff, sand a09614, sink 00a3ff, skyscraper 8c8c8c, fireplace fa0a0f,
refrigerator 14ff00, grandstand 1fff00, path ff1f00, stairs ffe000, runway 99ff00, case 0000ff,
pool table ff4700, pillow 00ebff, screen door 00adff, stairway 1f00ff, river 0bc8c8, bridge
ff5200, bookcase 00fff5, blind 003dff, coffee table 00ff70, toilet 00ff85, flower ff0000, book
ffa300, hill ff6600, bench c2ff00, countertop 008fff, stove 33ff00, palm 0052ff, kitchen island
00ff29, computer 00ffad, swivel chair 0a00ff, boat adff00, bar 00ff99, arcade machine ff5c00,
hovel ff00ff, bus ff00f5, towel ff0066, light ffad00, truck ff0014, tower ffb8b8, chandelier
001fff, awning 00ff3d, streetlight 0047ff, booth ff00cc, television receiver 00ffc2, airplane
00ff52, dirt track 000aff, apparel 0070ff, pole 3300ff, land 00c2ff, bannister 007aff, escalator
00ffa3, ottoman ff9900, bottle 00ff0a, buffet ff7000, poster 8fff00, stage 5200ff, van a3ff00,
ship ffeb00, fountain 08b8aa, conveyer belt 8500ff, canopy 00ff5c, washer b800ff, plaything
ff001f, swimming pool 00b8ff, stool 00d6ff, barrel ff0070, basket 5cff00, waterfall 00e0ff, tent
70e0ff, bag 46b8a0, minibike a300ff, cradle 9900ff, oven 47ff00, ball ff00a3, food ffcc00, step
ff008f, tank 00ffeb, trade name 85ff00, microwave ff00eb, pot f500ff, animal ff007a, bicycle
fff500, lake 0abed4, dishwasher d6ff00, screen 00ccff, blanket 1400ff, sculpture ffff00, hood
0099ff, sconce 0029ff, vase 00ffcc, traffic light 2900ff, tray 29ff00, ashcan ad00ff, fan
00f5ff, pier 4700ff, crt screen 7a00ff, plate 00ffb8, monitor 005cff, bulletin board b8ff00,
shower 0085ff, radiator ffd600, glass 19c2c2, clock 66ff00, flag 5c00ff
"""

ADE20K = LabelSpace(
    "ade20k",
    tuple(
        Label(index, name, (int(color[:2], 16), int(color[2:4], 16), int(color[4:], 16)))
        for index, entry in enumerate(" ".join(_ADE20K.split()).split(", "))
        for name, color in [entry.rsplit(" ", 1)]
    ),
)
"""The 150 classes of ADE20K's SceneParsing benchmark, from id 0 (Zhou et al. 2017)."""


_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake,
chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""


def color_of(name: str, place: int) -> tuple[int, int, int]:
    """Return the colour of a class that has none: a known one, else a hue far from the others.

    Args:
        name: of the class; those of Cityscapes and ADE20K are known.
        place: in its label space.
    """
    for space in (CITYSCAPES, ADE20K):
        for label in space.labels:
            if label.name == name:
                return label.color
    # Steps of the golden ratio never come close to an earlier hue soon.
    channels = colorsys.hsv_to_rgb((0.1 + place * 0.618034) % 1, 0.75, 0.9 - 0.3 * (place % 2))
    red, green, blue = (round(255 * each) for each in channels)
    return red, green, blue


COCO = LabelSpace(
    "coco",
    tuple(
        Label(place, name, color_of(name, place))
        for place, name in enumerate(" ".join(_COCO.split()).split(", "))
    ),
)
"""The 80 classes of COCO's boxes, in the order of detectors' channels (Lin et al. 2014)."""

LABEL_SPACES: Mapping[str, LabelSpace] = {
    space.name: space for space in (CITYSCAPES, CAMVID, ADE20K, COCO)
}


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


def translate(
    source: LabelSpace, target: LabelSpace, fallbacks: Mapping[str, str] = FALLBACKS
) -> npt.NDArray[np.uint8]:
    """Return the table from ids of `source` to ids of `target`, uint8 (256,).

    A class keeps its name, else takes its group's, else the first of its fallbacks that `target`
    has, else is unlabelled.
    """
    table = np.full(256, UNLABELLED, np.uint8)
    ids = {label.name: label.id for label in target.labels}
    for label in source.labels:
        name: str | None = label.name
        if name not in ids and label.group in ids:
            name = label.group
        while name is not None and name not in ids:
            name = fallbacks.get(name)
        if name is not None:
            table[label.id] = ids[name]
    return table


def label_space(name: str) -> LabelSpace:
    """Return a label space by its name, or read it from a YAML file; see :func:`read_label_space`.

    Raises:
        LabelError: there is no such name, or the file cannot be read as a label space.
    """
    if name in LABEL_SPACES:
        return LABEL_SPACES[name]
    path = Path(name).expanduser()
    if path.suffix.lower() not in (".yaml", ".yml"):
        known = ", ".join(LABEL_SPACES)
        raise LabelError(f"no label space {name!r}; give one of {known}, or a YAML file of labels")
    return read_label_space(path)


def read_label_space(path: Path) -> LabelSpace:
    """Read a label space from a YAML file.

    The file has a list of labels, or a mapping with such a list under ``labels``, as manifests of
    bundles have. A label is a name, or a mapping of ``name`` and any of ``id`` (its place in the
    list where absent), ``color`` (three numbers from 0 to 255; that of the same class of Cityscapes
    or ADE20K where absent, else one of its own) and ``group``.

    Raises:
        LabelError: the file is missing or says something else; the message names the entry.
    """
    try:
        read = yaml.safe_load(path.read_text())
    except OSError as error:
        raise LabelError(f"labels {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabelError(f"labels {path}: not YAML: {error}") from error
    name = path.stem
    if isinstance(read, dict):
        name, read = str(read.get("name", name)), read.get("labels")
    if not isinstance(read, list):
        raise LabelError(f"labels {path}: expected a list of labels, by itself or under `labels`")
    try:
        return LabelSpace(name, tuple(_entry(place, each) for place, each in enumerate(read)))
    except LabelError as error:
        raise LabelError(f"labels {path}: {error}") from error


def _entry(place: int, entry: object) -> Label:
    """Return one label of a YAML file; raise :class:`LabelError` where it is none."""
    values = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise LabelError(f"entry {place} is {entry!r}; give a name, or a mapping with a name")
    if unknown := set(values) - {"id", "name", "color", "group"}:
        raise LabelError(f"entry {place}, {values['name']!r}: unknown {sorted(map(str, unknown))}")
    number, color = values.get("id", place), values.get("color") or color_of(values["name"], place)
    if type(number) is not int:
        raise LabelError(f"entry {place}, {values['name']!r}: id {number!r} is not a whole number")
    if not isinstance(color, Sequence) or [type(each) for each in color] != [int] * 3:
        raise LabelError(f"entry {place}, {values['name']!r}: color {color!r}: give [r, g, b]")
    red, green, blue = color
    return Label(number, values["name"], (red, green, blue), str(values.get("group", "")))
