"""Let an encoder weigh how near a code is against the bits that it costs.

Choosing codes by distance plus a multiple of their cost is entropy-constrained vector quantisation
(Chou, Lookabaugh and Gray 1989). Costs depend on the four neighbours here, so all tokens of a frame
are chosen together: a Markov random field, whose energy is lowered by iterated conditional modes
(Besag 1986). Only the first level has costs, as it holds most of what neighbours tell. Receivers,
bitstream and prior's format know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from gosvae_codec.manifest import ENCODER, int8, record

from ..data.samples import Dataset
from ..prior import encode_pairs
from .onnx_export import store_as_half, to_onnx

SWEEPS = 3
"""Times that all tokens are chosen anew, given their neighbours."""
SMOOTHING = 4.0
"""Pairs that are added to those counted for each code, distributed as its second codes are."""
_PREFIX = "bit_cost/"


class Costs(NamedTuple):
    """Bits of first-level tokens, from how often codes occur, alone and side by side."""

    alone: npt.NDArray[np.float32]
    """(codes,): minus the logarithm of a code's frequency."""
    beside: npt.NDArray[np.float32]
    """(codes, codes): what is added for a code with another to its left, ``[left, code]``: minus
    their pointwise mutual information."""
    below: npt.NDArray[np.float32]
    """(codes, codes): likewise with another above, ``[above, code]``."""


def count_costs(tokens: npt.NDArray[np.integer], codes: int) -> Costs:
    """Return the costs of tokens, (N, rows, columns), each below `codes`."""
    counts = np.bincount(tokens.ravel(), minlength=codes) + 0.5
    frequency = counts / counts.sum()

    def pairs(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> np.ndarray:
        joint = np.tile(SMOOTHING * frequency, (codes, 1))
        np.add.at(joint, (first.ravel(), second.ravel()), 1)
        given = joint / joint.sum(1, keepdims=True)
        return np.asarray(np.log2(frequency) - np.log2(given), np.float32)

    return Costs(
        np.asarray(-np.log2(frequency), np.float32),
        pairs(tokens[:, :, :-1], tokens[:, :, 1:]),
        pairs(tokens[:, :-1], tokens[:, 1:]),
    )


class BitCost(nn.Module):
    """float (N, h, w, codes) -> the same: to each code's squared distance its bits are added."""

    alone: Tensor
    beside: Tensor
    below: Tensor

    def __init__(self, costs: Costs, weight: float) -> None:
        """Take `costs`, of which each bit is worth `weight` in squared distance."""
        super().__init__()
        self.codes = len(costs.alone)
        self.register_buffer("alone", weight * torch.from_numpy(costs.alone))
        # A neighbour outside the grid costs nothing; it has the index `codes`.
        for name in ("beside", "below"):
            table = weight * torch.from_numpy(getattr(costs, name))
            self.register_buffer(name, F.pad(table, (0, 1, 0, 1)))

    def forward(self, distances: Tensor) -> Tensor:
        total = distances
        for _ in range(SWEEPS):
            total = distances + self.alone + self._beside(total.argmin(-1))
        return total

    def _beside(self, tokens: Tensor) -> Tensor:
        """Return what each code adds beside these neighbours, (N, h, w, codes)."""
        padded = F.pad(tokens, (1, 1, 1, 1), value=self.codes)
        inner = slice(1, -1)
        left, right = padded[:, inner, :-2], padded[:, inner, 2:]
        above, under = padded[:, :-2, inner], padded[:, 2:, inner]
        after = self.beside[:, right] + self.below[:, under]
        return (self.beside[left] + self.below[above] + after.permute(1, 2, 3, 0))[
            ..., : self.codes
        ]


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
