"""ONNX detectors as experts: what form a file has, and the graph from a frame to its boxes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import compose, numpy_helper, parser, version_converter
from torch import Tensor, nn

from ..strict import ConfigError
from . import settings
from .onnx_expert import OPSET, TYPES, open_network, open_session, picture_input
from .suppression import CONFIDENT, OVERLAP, with_suppression
from .translate import Translate

Layout = Literal["offsets", "centres", "columns", "corners"]

STRIDES = (8, 16, 32)
"""Pixels from one cell to the next, of the maps of a detector that makes offsets from cells."""
_SIDE = 640
"""Of the square that a detector of free size is shown."""
_NAMES: dict[Layout, str] = {
    "offsets": "offsets from cells with objectness, as YOLOX makes them",
    "centres": "centres and sizes with objectness, as YOLOv5 makes them",
    "columns": "centres and sizes, as YOLOv8 makes them",
    "corners": "corners, score and class, as detectors with suppression make them",
}
USUAL_PICTURES: dict[Layout, settings.Picture] = {
    "offsets": settings.Picture(order="bgr", mean=(0, 0, 0), std=(1, 1, 1)),
    **dict.fromkeys(
        ("centres", "columns", "corners"), settings.Picture(mean=(0, 0, 0), std=(255, 255, 255))
    ),
}
"""What networks of each layout take, unless told otherwise."""

_BEFORE = """
before (uint8[1, H, W, 3] pixels)
    => (TYPE[1, 3, ROWS, COLUMNS] foreign_images, float[2] resized_sides)
<int64[1] one = {1}, int64[1] three = {3}, float[2] room = {ROWS.0, COLUMNS.0},
 int64[2] sides = {ROWS, COLUMNS}, int64[6] none = {0, 0, 0, 0, 0, 0}, float padding = {114.0}>
{
    ordered = Gather<axis = 3>(pixels, order)
    numbers = Cast<to = 1>(ordered)
    planes = Transpose<perm = [0, 3, 1, 2]>(numbers)
    shape = Shape(pixels)
    whole = Slice(shape, one, three)
    frame_sides = Cast<to = 1>(whole)
    scales = Div(room, frame_sides)
    scale = ReduceMin<keepdims = 0>(scales)
    scaled = Mul(frame_sides, scale)
    resized_sides = Round(scaled)
    rounded = Cast<to = 7>(resized_sides)
    resized = Resize<mode = "linear", axes = [2, 3]>(planes, , , rounded)
    missing = Sub(sides, rounded)
    pads = Concat<axis = 0>(none, missing)
    padded = Pad(resized, pads, padding)
    centred = Sub(padded, mean)
    normalised = Div(centred, std)
    foreign_images = Cast<to = DTYPE>(normalised)
}
"""
_AFTER = """
after (FORM[1, rows, columns] made, float[2] sides_taken)
    => (float[1, boxes, 4] all_boxes, float[1, classes, boxes] all_scores)
<int64[4] swapped = {1, 0, 1, 0}, int64[1] last = {3}>
{
    taken = Cast<to = 1>(made)
    LAYOUT
    columns_and_rows = Gather(sides_taken, swapped)
    all_boxes = Div(corners, columns_and_rows)
    chosen = Gather<axis = 2>(found, channels)
    best = ReduceMax<keepdims = 0>(chosen, last)
    all_scores = Transpose<perm = [0, 2, 1]>(best)
}
"""
_CORNERS = """
    halves = Mul(sizes, half)
    first_corners = Sub(centres, halves)
    last_corners = Add(centres, halves)
    corners = Concat<axis = 2>(first_corners, last_corners)
"""
_LAYOUTS: dict[Layout, str] = {
    "offsets": f"""
    offsets, logarithms, objectness, each = Split<axis = 2>(taken, parts)
    places = Add(offsets, cells_of_grid)
    centres = Mul(places, strides)
    exponentials = Exp(logarithms)
    sizes = Mul(exponentials, strides)
    found = Mul(objectness, each)
    {_CORNERS}""",
    "centres": f"""
    centres, sizes, objectness, each = Split<axis = 2>(taken, parts)
    found = Mul(objectness, each)
    {_CORNERS}""",
    "columns": f"""
    turned = Transpose<perm = [0, 2, 1]>(taken)
    centres, sizes, found = Split<axis = 2>(turned, parts)
    {_CORNERS}""",
    "corners": """
    corners, score, number = Split<axis = 2>(taken, parts)
    known = Cast<to = 7>(number)
    same = Equal(known, classes_known)
    each = Cast<to = 1>(same)
    found = Mul(each, score)""",
}
"""From `taken` to `corners` in pixels, (1, boxes, 4), and scores `found`, (1, boxes, classes)."""


class Form(NamedTuple):
    """What an ONNX detector takes and makes, as running it once tells."""

    taken: str
    """Name of its input."""
    dtype: torch.dtype
    size: tuple[int, int]
    """Height and width of what it is shown."""
    made: str
    """Name of the output that is read."""
    layout: Layout
    classes: int

    def __str__(self) -> str:
        return (
            f"input {self.taken}: {str(self.dtype).removeprefix('torch.')}, "
            f"{self.size[1]}x{self.size[0]}; output {self.made}: boxes of {self.classes} classes, "
            f"{_NAMES[self.layout]}"
        )


def probe_detector(path: Path, classes: int, size: tuple[int, int] | None = None) -> Form | None:
    """Return the form of an ONNX detector, of which one frame of noise is run.

    Args:
        path: the file.
        classes: that it tells apart.
        size: height and width that it is shown where it takes any; a square of 640 by default.

    Returns:
        None where no output has boxes of so many classes.

    Raises:
        ConfigError: it does not run, or takes something else than one picture.
    """
    session = open_network(path)
    given = picture_input(path, session)
    if given.channels_last:
        return None
    sides = given.size or size or (_SIDE, _SIDE)
    noise = np.random.default_rng(0).random((1, 3, *sides), np.float32)
    picture = (255 * noise).astype(torch.empty(0, dtype=given.dtype).numpy().dtype)
    try:
        outputs = session.run(None, {given.name: picture})
    except Exception as error:  # ONNX Runtime has no base class of its own
        raise ConfigError(f"{path}: fails on a frame of {sides}: {error}") from error
    for value, array in zip(session.get_outputs(), outputs, strict=True):
        layout = _layout(array, classes, sides)
        if layout is not None:
            return Form(given.name, given.dtype, sides, value.name, layout, classes)
    return None


def _layout(array: npt.NDArray[Any], classes: int, size: tuple[int, int]) -> Layout | None:
    """Return how an output of one frame lists boxes; None where it does not."""
    if array.ndim != 3 or len(array) != 1 or not np.issubdtype(array.dtype, np.floating):
        return None
    _, rows, columns = array.shape
    numbers = array[0, :, 5:6]
    if columns == 6 and ((numbers == np.rint(numbers)) & (numbers >= 0)).all():
        return "corners"
    if columns == 5 + classes:
        of_cells = rows == len(_grid(size)[0]) and np.ptp(array[0, :, :2]) < max(size) / 2
        return "offsets" if of_cells else "centres"
    return "columns" if rows == 4 + classes else None


class OnnxDetector(nn.Module):
    """An ONNX detector, from frames to boxes of a label space; has no gradient.

    Attributes:
        form: what the file takes and makes.
        names: table of channels and labels.
        graph: the whole of it: ``pixels``, uint8 (1, H, W, 3) RGB of any size, to the outputs of
            :class:`gosvae_codec.tasks.Detection`. Frames are scaled to fit the network's input,
            from its upper left corner on.
    """

    digest: Tensor

    def __init__(self, network: settings.Detector, names: Translate) -> None:
        """Open the file and find out its form.

        Raises:
            ConfigError: it does not run, makes no boxes of so many classes in a form that is known,
                or a label has no channel.
        """
        super().__init__()
        path, classes = Path(network.path), len(names.table)
        form = probe_detector(path, classes, network.size)
        if form is None:
            shapes = [(each.name, each.shape) for each in open_network(path).get_outputs()]
            raise ConfigError(
                f"{path}: no output has boxes of {classes} classes: {shapes}; one of "
                f"(1, boxes, 5 + classes), (1, 4 + classes, boxes) or (1, boxes, 6) is read"
            )
        if not all(names.groups):
            raise ConfigError(f"{path}: each label needs a channel of the detector\n{names}")
        self.form, self.names = form, names
        self.graph = _join(path, form, network.picture or USUAL_PICTURES[form.layout], names.groups)
        whole = self.graph.SerializeToString()
        self._session = open_session(whole)
        # Part of what tells this expert from others.
        sha256 = bytearray(hashlib.sha256(whole).digest())
        self.register_buffer("digest", torch.frombuffer(sha256, dtype=torch.uint8).clone())

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxDetector:
        """Return itself: it has nothing that is trained."""
        return self

    def boxes(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the boxes of a frame, uint8 (H, W, 3) RGB.

        Returns:
            float32 (M, 5): class as its place in the labels; left, top, right and bottom as shares
            of the frame's width and height.
        """
        boxes, _, classes, _ = self._session.run(None, {"pixels": frame[None]})
        return np.concatenate([classes[:, None].astype(np.float32), boxes.clip(0, 1)], 1)


def _join(
    path: Path, form: Form, picture: settings.Picture, groups: list[list[int]]
) -> onnx.ModelProto:
    """Return the detector between what feeds it and what reads its boxes."""
    foreign = onnx.load(path)
    # Merged graphs have one operator set; newer ones than ours cannot be brought back.
    opset = max([OPSET, *(each.version for each in foreign.opset_import if not each.domain)])
    try:
        foreign = version_converter.convert_version(foreign, opset)
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot convert it to opset {opset}: {error}") from error
    foreign.ir_version = _ir_version(opset)
    foreign = onnx.utils.Extractor(foreign).extract_model([form.taken], [form.made])
    foreign = compose.add_prefix(foreign, "foreign/")
    rows, columns = form.size
    kind, dtype = next(
        (name[7:-1], onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=each).numpy().dtype))
        for name, each in TYPES.items()
        if each == form.dtype
    )
    whole = 255 / picture.scale
    as_they_are = form.dtype == torch.uint8
    planes = {"mean": (0.0,) if as_they_are else np.multiply(picture.mean, whole)}
    planes["std"] = (1.0,) if as_they_are else np.multiply(picture.std, whole)
    before = _parse(
        _BEFORE.replace("DTYPE", str(dtype))
        .replace("TYPE", kind)
        .replace("ROWS", str(rows))
        .replace("COLUMNS", str(columns)),
        opset,
        order=np.array([2, 1, 0] if picture.order == "bgr" else [0, 1, 2]),
        **{name: np.array(values, np.float32)[:, None, None] for name, values in planes.items()},
    )
    joined = compose.merge_models(before, foreign, [("foreign_images", f"foreign/{form.taken}")])
    # A label of several channels is as sure as the surest of them.
    most = max(map(len, groups))
    channels = np.array([group + group[:1] * (most - len(group)) for group in groups])
    after = _parse(
        _AFTER.replace("FORM", "float16" if form.dtype == torch.float16 else "float").replace(
            "LAYOUT", _LAYOUTS[form.layout]
        ),
        opset,
        channels=channels,
        **_constants(form),
    )
    pairs = [(f"foreign/{form.made}", "made"), ("resized_sides", "sides_taken")]
    joined = compose.merge_models(joined, after, pairs)
    return with_suppression(joined, OVERLAP, CONFIDENT)


def _constants(form: Form) -> dict[str, npt.NDArray[Any]]:
    """Return what the part of a layout needs."""
    half = {"half": np.array(0.5, np.float32)}
    if form.layout == "corners":
        return {"parts": np.array([4, 1, 1]), "classes_known": np.arange(form.classes)}
    if form.layout == "columns":
        return {"parts": np.array([2, 2, form.classes]), **half}
    parts = {"parts": np.array([2, 2, 1, form.classes]), **half}
    if form.layout == "centres":
        return parts
    cells, strides = _grid(form.size)
    return {**parts, "cells_of_grid": cells[None], "strides": strides[None]}


def _grid(size: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return column and row of each cell of STRIDES, and its stride; float (cells, ...)."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([columns, rows], -1).reshape(-1, 2))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _ir_version(opset: int) -> int:
    return onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])


def _parse(text: str, opset: int, **constants: npt.NDArray[Any]) -> onnx.ModelProto:
    header = f'<ir_version: {_ir_version(opset)}, opset_import: ["" : {opset}]>'
    model = parser.parse_model(f"{header}\n{text}")
    model.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in constants.items()
    )
    return model
