"""Experts as ONNX graphs in the form of this project, from camera frame to a task's outputs.

They take one frame of any size, uint8 (1, H, W, 3) RGB, and bring it to the size that the network
was trained at by themselves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import compose, numpy_helper, parser, version_converter

from ..bundle.detection import with_suppression
from ..bundle.onnx_export import OPSET
from .yolox import CLASSES, CONFIDENT, OVERLAP, SIDE, STRIDES

_HEADER = f'<ir_version: 9, opset_import: ["" : {OPSET}]>'

_BEFORE_SEGMENTER = """
before (uint8[1, H, W, 3] frames) => (float[1, h, w, 3] foreign_data)
<int64[1] first = {-1}, int64[1] last = {-9223372036854775807}, int64[1] axis = {3},
 int64[2] sides = {HEIGHT, WIDTH}>
{
    reversed = Slice(frames, first, last, axis, first)
    pixels = Cast<to = 1>(reversed)
    planes = Transpose<perm = [0, 3, 1, 2]>(pixels)
    resized = Resize<mode = "linear", antialias = 1, axes = [2, 3]>(planes, , , sides)
    foreign_data = Transpose<perm = [0, 2, 3, 1]>(resized)
}
"""

_AFTER_SEGMENTER = """
after (float[1, h, w, classes] taken) => (float[1, classes, h, w] logits)
<float least = {1e-6}>
{
    probabilities = Max(taken, least)
    logarithms = Log(probabilities)
    logits = Transpose<perm = [0, 3, 1, 2]>(logarithms)
}
"""

_BEFORE_DETECTOR = """
before (uint8[1, H, W, 3] pixels)
    => (float[1, 3, SIDE, SIDE] foreign_images, float[2] resized_sides)
<int64[1] first = {-1}, int64[1] last = {-9223372036854775807}, int64[1] axis = {3},
 int64[1] one = {1}, int64[1] three = {3}, float side = {SIDE.0}, int64[2] square = {SIDE, SIDE},
 int64[6] none = {0, 0, 0, 0, 0, 0}, float padding = {114.0}>
{
    reversed = Slice(pixels, first, last, axis, first)
    numbers = Cast<to = 1>(reversed)
    planes = Transpose<perm = [0, 3, 1, 2]>(numbers)
    shape = Shape(pixels)
    whole = Slice(shape, one, three)
    sides = Cast<to = 1>(whole)
    longest = ReduceMax<keepdims = 0>(sides)
    scale = Div(side, longest)
    scaled = Mul(sides, scale)
    resized_sides = Round(scaled)
    rounded = Cast<to = 7>(resized_sides)
    resized = Resize<mode = "linear", axes = [2, 3]>(planes, , , rounded)
    missing = Sub(square, rounded)
    pads = Concat<axis = 0>(none, missing)
    foreign_images = Pad(resized, pads, padding)
}
"""

_AFTER_DETECTOR = """
after (float[1, cells, 85] taken, float[2] taken_sides)
    => (float[1, cells, 4] all_boxes, float[1, classes, cells] all_scores)
<int64[4] parts = {2, 2, 1, 80}, float two = {2.0}, int64[2] swapped = {1, 0}>
{
    offsets, logarithms, objectness, all_classes = Split<axis = 2>(taken, parts)
    places = Add(offsets, cells_of_grid)
    centres = Mul(places, strides)
    exponentials = Exp(logarithms)
    sizes = Mul(exponentials, strides)
    halves = Div(sizes, two)
    first_corners = Sub(centres, halves)
    last_corners = Add(centres, halves)
    columns_and_rows = Gather(taken_sides, swapped)
    first_shares = Div(first_corners, columns_and_rows)
    last_shares = Div(last_corners, columns_and_rows)
    all_boxes = Concat<axis = 2>(first_shares, last_shares)
    chosen = Gather<axis = 2>(all_classes, channels)
    products = Mul(objectness, chosen)
    all_scores = Transpose<perm = [0, 2, 1]>(products)
}
"""


def segmenter_graph(path: Path) -> onnx.ModelProto:
    """Return the segmenter: uint8 (1, H, W, 3) -> ``logits`` float (1, classes, h, w)."""
    foreign = _load(path)
    taken = foreign.graph.input[0]
    _, height, width, _ = (side.dim_value for side in taken.type.tensor_type.shape.dim)
    text = _BEFORE_SEGMENTER.replace("HEIGHT", str(height)).replace("WIDTH", str(width))
    joined = compose.merge_models(_parse(text), foreign, [("foreign_data", taken.name)])
    after = _parse(_AFTER_SEGMENTER)
    return compose.merge_models(joined, after, [(joined.graph.output[0].name, "taken")])


def detector_graph(path: Path) -> onnx.ModelProto:
    """Return the detector: uint8 (1, H, W, 3) -> what heads of kind detection make."""
    foreign = _load(path)
    before = _parse(_BEFORE_DETECTOR.replace("SIDE", str(SIDE)))
    joined = compose.merge_models(
        before, foreign, [("foreign_images", foreign.graph.input[0].name)]
    )
    (made,) = (each.name for each in joined.graph.output if each.name != "resized_sides")
    after = _parse(_AFTER_DETECTOR)
    cells, strides = _grid()
    constants = {
        "cells_of_grid": cells[None],
        "strides": strides[None],
        "channels": np.array(list(CLASSES.values())),
    }
    after.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in constants.items()
    )
    pairs = [(made, "taken"), ("resized_sides", "taken_sides")]
    return with_suppression(compose.merge_models(joined, after, pairs), OVERLAP, CONFIDENT)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Return column and row of each of the detector's cells, and its stride; float (cells, ...)."""
    cells, strides = [], []
    for stride in STRIDES:
        side = SIDE // stride
        rows, columns = np.mgrid[:side, :side]
        cells.append(np.stack([columns, rows], -1).reshape(-1, 2))
        strides.append(np.full((side * side, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _parse(text: str) -> onnx.ModelProto:
    return parser.parse_model(f"{_HEADER}\n{text}")


def _load(path: Path) -> onnx.ModelProto:
    model = version_converter.convert_version(onnx.load(path), OPSET)
    model.ir_version = 9
    return compose.add_prefix(model, "foreign/")
