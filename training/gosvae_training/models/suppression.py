"""The end of detection heads: non-maximum suppression inside the ONNX graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BOXES, SCORES = "all_boxes", "all_scores"
"""What a head makes before suppression."""
OVERLAP = 0.45
"""Intersection over union from which two boxes of a class are one."""
CONFIDENT = 0.3
"""Least score of an expert's box that counts."""
LEAST_SCORE = 0.05
"""Of a box that a bundle's head makes; receivers keep those that are likely enough for them."""
_LEAST = "nms/least"


def with_suppression(
    model: onnx.ModelProto, overlap: float, least_score: float, at_most: int = 100
) -> onnx.ModelProto:
    """Return a detection head: `model` followed by non-maximum suppression for each class.

    Args:
        model: its outputs are ``all_boxes``, float (N, A, 4), x0, y0, x1, y1 as shares of the
            frame's width and height, and ``all_scores``, float (N, classes, A), 0 to 1. Opset 15 or
            newer.
        overlap: intersection over union above which the lower score is left out.
        least_score: below which boxes are left out.
        at_most: boxes of one class in a frame.

    Returns:
        A copy with the outputs of :class:`gosvae_codec.tasks.Detection`, by falling score.

    Raises:
        ValueError: `model` has other outputs.
    """
    names = [value.name for value in model.graph.output]
    if names != [BOXES, SCORES]:
        raise ValueError(f"outputs {names}: expected {BOXES}, {SCORES}")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants: dict[str, np.ndarray] = {
        "nms/at_most": np.full(1, at_most, np.int64),
        "nms/overlap": np.full(1, overlap, np.float32),
        _LEAST: np.full(1, least_score, np.float32),
        "nms/ones": np.ones(3, np.int64),
        "nms/axis": np.ones(1, np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    suppressed = [BOXES, SCORES, "nms/at_most", "nms/overlap", _LEAST]
    columns = ["nms/frame", "nms/class", "nms/place"]
    graph.node.extend(
        [
            helper.make_node("NonMaxSuppression", suppressed, ["nms/found"]),
            helper.make_node("GatherND", [SCORES, "nms/found"], ["nms/scores"]),
            # The operator's order is by class.
            helper.make_node("Shape", ["nms/scores"], ["nms/count"]),
            helper.make_node("TopK", ["nms/scores", "nms/count"], ["scores", "nms/order"]),
            helper.make_node("Gather", ["nms/found", "nms/order"], ["nms/kept"]),
            helper.make_node("Split", ["nms/kept", "nms/ones"], columns, axis=1),
            helper.make_node("Concat", ["nms/frame", "nms/place"], ["nms/at"], axis=1),
            helper.make_node("GatherND", [BOXES, "nms/at"], ["boxes"]),
            helper.make_node("Squeeze", ["nms/class", "nms/axis"], ["classes"]),
            helper.make_node("Squeeze", ["nms/frame", "nms/axis"], ["frames"]),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["objects", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["objects"]),
            helper.make_tensor_value_info("classes", TensorProto.INT64, ["objects"]),
            helper.make_tensor_value_info("frames", TensorProto.INT64, ["objects"]),
        ]
    )
    onnx.checker.check_model(made)
    return made


def with_least_score(model: onnx.ModelProto, least_score: float) -> onnx.ModelProto:
    """Return a copy of what :func:`with_suppression` made, with another least score.

    Raises:
        ValueError: `model` is something else.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    found = [each for each in made.graph.initializer if each.name == _LEAST]
    if len(found) != 1:
        raise ValueError(f"{len(found)} constants {_LEAST}: expected one")
    found[0].CopyFrom(numpy_helper.from_array(np.full(1, least_score, np.float32), _LEAST))
    return made
