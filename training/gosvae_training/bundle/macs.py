"""Multiply-accumulates (MACs) of one forward pass: convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.onnx_detector import OnnxDetector
from ..models.onnx_expert import OnnxExpert

Shape = tuple[int, ...]
_COUNTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_NOT_COUNTED = frozenset(
    {"If", "Loop", "Scan", "Einsum", "LSTM", "GRU", "RNN", "Attention"}
    | {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger"}
)
"""Kinds that have MACs which are not counted here."""


def network_macs(network: nn.Module, *inputs: Any) -> int:
    """Return the MACs of a torch network for `inputs`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops() // 2


def expert_macs(expert: nn.Module, frames: Tensor) -> int | None:
    """Return an expert's MACs for uint8 `frames` (N, H, W, 3); None where they are not known."""
    if isinstance(expert, OnnxDetector):
        return graph_macs(expert.graph, tuple(frames.shape))
    if not isinstance(expert, OnnxExpert):
        return network_macs(expert, frames)
    # What an ONNX network does is hidden from torch.
    return graph_macs(onnx.load(expert.path), tuple(expert.before(frames).shape))


def total_macs(counts: Iterable[int | None]) -> int | None:
    """Return the sum of MACs; None where any of them is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def graph_macs(model: onnx.ModelProto, taken: Shape) -> int | None:
    """Return the MACs of an ONNX graph; None where they are not known.

    They are not where the graph does not run on zeros, or where a node of another kind multiplies.

    Args:
        model: the graph, with one input; it is left as it is.
        taken: shape of the input.
    """
    if any(node.op_type in _NOT_COUNTED for node in model.graph.node):
        return None
    counted = [node for node in model.graph.node if node.op_type in _COUNTED]
    shapes = _computed_shapes(model, taken, counted)
    return None if shapes is None else sum(_node_macs(node, shapes) for node in counted)


def _computed_shapes(
    model: onnx.ModelProto, taken: Shape, nodes: Iterable[onnx.NodeProto]
) -> dict[str, Shape] | None:
    """Return the shapes of what nodes take and make when the graph runs on zeros.

    Shape inference does not know sizes that depend on values; None where the graph does not run.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    weights = {each.name: tuple(each.dims) for each in graph.initializer}
    # Older files list weights among the inputs.
    (given,) = (each for each in graph.input if each.name not in weights)
    names = {name for node in nodes for name in (*node.input[:2], node.output[0])}
    known = {*weights, given.name, *(value.name for value in graph.output)}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - known))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    dtype = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    try:
        session = ort.InferenceSession(
            copied.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        made = session.run(None, {given.name: np.zeros(taken, dtype)})
    except Exception:  # ONNX Runtime has no base class of its own
        return None
    computed = zip((each.name for each in session.get_outputs()), made, strict=True)
    return {**weights, given.name: taken, **{name: array.shape for name, array in computed}}


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Return one node's MACs."""
    taken, weight, made = (shapes[name] for name in (*node.input[:2], node.output[0]))
    # Weights of a convolution: (outputs, inputs of a group, kernel), transposed the other way.
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(taken) * math.prod(weight[1:])
    transposed = {each.name: each.i for each in node.attribute}.get("transA", 0)
    return math.prod(made) * taken[0 if transposed else -1]
