"""Convolutional networks that come as ONNX files, as torch modules, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from ..strict import ConfigError


class OnnxNetwork(nn.Module):
    """The part of an ONNX network that leads from some of its tensors to others.

    Runs at any batch and picture size, whatever size the file was exported at. Weights are float32
    and can be trained.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[str],
        outputs: Sequence[str],
        graph: onnx.GraphProto | None = None,
    ) -> None:
        """Read it.

        Args:
            path: the ONNX file.
            inputs: names of the tensors that it takes, in order.
            outputs: names of the tensors that it makes, in order.
            graph: what is taken for the graph of the file.

        Raises:
            ConfigError: the file cannot be read, lacks one of the tensors, or has an operator that
                this class does not know.
        """
        super().__init__()
        if graph is None:
            graph = load_onnx(path).graph
        self.inputs, self.outputs = list(inputs), list(outputs)
        constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._steps: list[tuple[Callable[..., Tensor], list[str], str]] = []
        self.convolutions = nn.ModuleList()
        for node in _needed(path, graph, self.inputs, self.outputs):
            attributes = {
                each.name: onnx.helper.get_attribute_value(each) for each in node.attribute
            }
            fixed = [constants[name] for name in node.input if name in constants]
            if node.op_type == "Conv":
                operator: Callable[..., Tensor] = _convolution(fixed, attributes)
                self.convolutions.append(operator)  # type: ignore[arg-type]
            elif node.op_type in _OPERATORS:
                operator = _OPERATORS[node.op_type](fixed, attributes)
            else:
                raise ConfigError(
                    f"{path}: operator {node.op_type} of {node.output[0]} is not known here; "
                    f"known: Conv, {', '.join(sorted(_OPERATORS))}"
                )
            taken = [name for name in node.input if name and name not in constants]
            self._steps.append((operator, taken, node.output[0]))

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        """Return the outputs, float (N, channels, h, w) each, of as many inputs."""
        known = dict(zip(self.inputs, tensors, strict=True))
        for operator, taken, made in self._steps:
            known[made] = operator(*(known[name] for name in taken))
        return [known[name] for name in self.outputs]


def load_onnx(path: Path) -> onnx.ModelProto:
    """Return an ONNX file; raise ConfigError where it cannot be read."""
    try:
        return onnx.load(path)
    except Exception as error:  # onnx and protobuf have no base class for it
        raise ConfigError(f"{path}: not an ONNX network: {error}") from error


def _needed(
    path: Path, graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]
) -> list[onnx.NodeProto]:
    """Return the nodes between the tensors, in order."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    constants = {each.name for each in graph.initializer}
    needed: set[int] = set()
    wanted = list(outputs)
    while wanted:
        name = wanted.pop()
        if name in inputs or name in constants or not name:
            continue
        if name not in makers:
            raise ConfigError(f"{path}: no tensor {name!r} that {list(inputs)} lead to")
        if makers[name] not in needed:
            needed.add(makers[name])
            wanted += graph.node[makers[name]].input
    return [graph.node[index] for index in sorted(needed)]


def _convolution(fixed: list[Any], attributes: dict[str, Any]) -> nn.Conv2d:
    weight, *bias = (torch.from_numpy(each.copy()) for each in fixed)
    groups = attributes.get("group", 1)
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ConfigError(f"a convolution with pads {top, left, bottom, right} is not supported")
    height, width = weight.shape[2:]
    rows, columns = attributes.get("strides", (1, 1))
    spread, across = attributes.get("dilations", (1, 1))
    made = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (height, width),
        (rows, columns),
        (top, left),
        (spread, across),
        groups,
        bias=bool(bias),
    )
    made.load_state_dict({"weight": weight, **({"bias": bias[0]} if bias else {})})
    return made


def _max_pool(fixed: list[Any], attributes: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    sides, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    pads = attributes.get("pads", [0, 0, 0, 0])[:2]
    return lambda x: F.max_pool2d(x, sides, strides, pads)


def _average_pool(fixed: list[Any], attributes: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    sides, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    if any(attributes.get("pads", ())):
        raise ConfigError(f"AveragePool with pads {attributes['pads']} is not supported")
    return lambda x: F.avg_pool2d(x, sides, strides)


def _resize(fixed: list[Any], attributes: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    scales = [float(each) for each in fixed[-1]]
    mode = attributes.get("mode", b"nearest")
    place = attributes.get("coordinate_transformation_mode", b"half_pixel")
    linear = mode == b"linear" and place == b"half_pixel"
    if not (linear or mode == b"nearest") or scales[:2] != [1.0, 1.0]:
        raise ConfigError(f"Resize by {scales} in mode {mode}, {place}, is not supported")
    wanted = "bilinear" if linear else "nearest"
    return lambda x: F.interpolate(x, scale_factor=scales[2:], mode=wanted)


def _pad(fixed: list[Any], attributes: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    pads = [int(each) for each in fixed[0]]
    if len(pads) != 8 or any(pads[:2] + pads[4:6]) or any(float(each) for each in fixed[1:]):
        raise ConfigError(f"Pad by {pads} is not supported")
    top, left, bottom, right = *pads[2:4], *pads[6:8]
    return lambda x: F.pad(x, (left, right, top, bottom))


def _slice(fixed: list[Any], attributes: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    starts, ends, axes, steps = ([int(v) for v in each] for each in fixed)

    def cut(x: Tensor) -> Tensor:
        index = [slice(None)] * x.ndim
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            index[axis] = slice(start, min(end, x.shape[axis]), step)
        return x[tuple(index)]

    return cut


_OPERATORS: dict[str, Callable[[list[Any], dict[str, Any]], Callable[..., Tensor]]] = {
    "Add": lambda fixed, attributes: torch.add,
    "AveragePool": _average_pool,
    "Concat": lambda fixed, attributes: lambda *parts: torch.cat(parts, attributes["axis"]),
    "MaxPool": _max_pool,
    "Mul": lambda fixed, attributes: torch.mul,
    "Pad": _pad,
    "Relu": lambda fixed, attributes: F.relu,
    "Resize": _resize,
    "Sigmoid": lambda fixed, attributes: torch.sigmoid,
    "Slice": _slice,
}
