"""Multiply-accumulates (MACs) of one forward pass: convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
    if not isinstance(expert, OnnxExpert):
        return network_macs(expert, frames)
    # What an ONNX network does is hidden from torch.
    return graph_macs(onnx.load(expert.path), tuple(expert.before(frames).shape))


def graph_macs(model: onnx.ModelProto, taken: Shape) -> int | None:
    """Return the MACs of an ONNX graph; None where they are not known.

    They are not where a shape depends on values, or where a node of another kind multiplies.

    Args:
        model: the graph, with one input; it is left as it is. Shapes are those of ONNX's shape
            inference.
        taken: shape of the input.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    weights = {each.name: tuple(each.dims) for each in graph.initializer}
    # Older files list weights among the inputs.
    (given,) = (each for each in graph.input if each.name not in weights)
    del given.type.tensor_type.shape.dim[:]
    for side in taken:
        given.type.tensor_type.shape.dim.add(dim_value=side)
    # Shapes that the file declares may be those of another input.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(copied, data_prop=True).graph
    shapes: dict[str, Shape | None] = {**weights}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        known = tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
        shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim) if known else None
    total = 0
    for node in graph.node:
        macs = _node_macs(node, shapes)
        if macs is None:
            return None
        total += macs
    return total


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, Shape | None]) -> int | None:
    """Return one node's MACs, 0 for kinds that have none; None where they are not known."""
    if node.op_type not in _COUNTED:
        return None if node.op_type in _NOT_COUNTED else 0
    taken, weight = (shapes.get(name) for name in node.input[:2])
    made = shapes.get(node.output[0])
    if taken is None or weight is None or made is None:
        return None
    # Weights of a convolution: (outputs, inputs of a group, kernel), transposed the other way.
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(taken) * math.prod(weight[1:])
    transposed = {each.name: each.i for each in node.attribute}.get("transA", 0)
    return math.prod(made) * taken[0 if transposed else -1]
