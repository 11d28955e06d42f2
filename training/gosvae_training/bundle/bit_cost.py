"""Let a bundle's encoder weigh how near a code is against the bits that it costs.

Only the first level has costs, as it holds most of what neighbours tell. Receivers, bitstream and
prior's format know nothing of it. :mod:`gosvae_training.models.bit_cost` chooses the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from gosvae_codec.manifest import ENCODER, int8, record

from ..data.samples import Dataset
from ..models.bit_cost import BitCost, Costs, count_costs
from ..prior import encode_pairs
from .onnx_export import store_as_half, to_onnx

_PREFIX = "bit_cost/"


def add_bit_cost(
    folder: Path, samples: Dataset, codes: int, weight: float, seed: int
) -> dict[str, Any]:
    """Let a bundle's encoder choose its first-level tokens by distance and bits.

    Costs that it had are replaced.

    Args:
        folder: of ``encoder.onnx``, and of its 8-bit version if there is one.
        samples: frames that were trained on; costs are counted from their tokens.
        codes: size of the codebook.
        weight: squared distance that a bit is worth; 0 to choose the nearest codes again.
        seed: of the views of the frames.

    Returns:
        The manifest's records of these files.
    """
    records = _edit(folder, _remove)
    if not weight:
        return records
    pairs = encode_pairs(folder / ENCODER, samples, 1, seed)
    costs = count_costs(pairs.earlier[:, 0], codes)
    return _edit(folder, lambda graph: _insert(graph, costs, weight))


def set_inertia(folder: Path, inertia: Sequence[float]) -> dict[str, Any]:
    """Give a bundle's encoder another inertia at each level.

    See :class:`~gosvae_training.bundle.graphs.EncoderGraph`; files and return value are as for
    :func:`add_bit_cost`.
    """

    def change(graph: onnx.GraphProto) -> None:
        makers = {name: node for node in graph.node for name in node.output}
        for test in _kept_if_near(graph):
            bound = makers[test.input[1]]
            if bound.op_type == "Add":
                test.input[1] = bound.input[0]
        _prune(graph)
        tests = _kept_if_near(graph)
        for level, (test, value) in enumerate(zip(tests, inertia, strict=True)):
            name = f"inertia/{level}"
            graph.initializer.append(
                numpy_helper.from_array(np.array(value, np.float32), f"{name}/value")
            )
            added = onnx.helper.make_node("Add", [test.input[1], f"{name}/value"], [name], name)
            graph.node.insert(list(graph.node).index(test), added)
            test.input[1] = name

    return _edit(folder, change)


def _edit(folder: Path, change: Callable[[onnx.GraphProto], None]) -> dict[str, Any]:
    """Change each version of the encoder; return the manifest's records of them."""
    records = {}
    for path in (folder / ENCODER, folder / int8(ENCODER)):
        if path.exists():
            model = onnx.load(path)
            change(model.graph)
            onnx.checker.check_model(model)
            path.write_bytes(model.SerializeToString())
            records[path.name] = record(path)
    return records


def _replace(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    """Let `nodes` take `new` instead of `old`."""
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]


def _prune(graph: onnx.GraphProto) -> None:
    """Delete what leads to no output."""
    used = {each.name for each in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used & {*node.output}:
            used |= {*node.input}
            kept.append(node)
    constants = [each for each in graph.initializer if each.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _distances(graph: onnx.GraphProto) -> str:
    """Return the name of what the first level's codes are searched in."""
    # The distance of the reference's code is looked up there.
    return str(next(node for node in graph.node if node.op_type == "GatherElements").input[0])


def _kept_if_near(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return what compares each level's reference token with the nearest code."""
    return [node for node in graph.node if node.op_type == "LessOrEqual"]


def _insert(graph: onnx.GraphProto, costs: Costs, weight: float) -> None:
    distances = _distances(graph)
    shape = [each.dim_value for each in graph.output[0].type.tensor_type.shape.dim]
    example = torch.zeros(2, *shape[2:], len(costs.alone))
    added = to_onnx(BitCost(costs, weight), (example,), (["distances"], ["total"]))
    store_as_half(added.graph)
    added = onnx.compose.add_prefix(added, _PREFIX)
    _replace(graph.node, distances, added.graph.output[0].name)
    _replace(added.graph.node, added.graph.input[0].name, distances)
    place = next(i for i, node in enumerate(graph.node) if distances in node.output) + 1
    nodes = [*graph.node[:place], *added.graph.node, *graph.node[place:]]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added.graph.initializer)


def _remove(graph: onnx.GraphProto) -> None:
    """Undo :func:`_insert`, if it was done."""
    total = _distances(graph)
    if total.startswith(_PREFIX):
        added = [node for node in graph.node if any(n.startswith(_PREFIX) for n in node.output)]
        taken = [name for node in added for name in node.input if name]
        _replace(graph.node, total, next(n for n in taken if not n.startswith(_PREFIX)))
        _prune(graph)
