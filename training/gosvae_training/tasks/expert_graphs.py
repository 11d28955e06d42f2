"""Experts as ONNX graphs in the form of this project, from camera frame to a task's outputs.

They take one frame of any size, uint8 (1, H, W, 3) RGB, and bring it to the size that the network
was trained at by themselves.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import compose, parser, version_converter

from ..models import settings
from ..models.onnx_detector import OnnxDetector
from ..models.onnx_expert import OPSET
from ..models.translate import translate_channels
from .yolox import CHANNEL_NAMES, OBJECTS

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
    network = settings.Detector(kind="detector", path=str(path), channels=CHANNEL_NAMES)
    return OnnxDetector(network, translate_channels(CHANNEL_NAMES, OBJECTS)).graph


def _parse(text: str) -> onnx.ModelProto:
    return parser.parse_model(f"{_HEADER}\n{text}")


def _load(path: Path) -> onnx.ModelProto:
    model = version_converter.convert_version(onnx.load(path), OPSET)
    model.ir_version = 9
    return compose.add_prefix(model, "foreign/")
