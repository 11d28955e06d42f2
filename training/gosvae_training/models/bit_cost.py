"""Weigh how near a code is against the bits that it costs.

Choosing codes by distance plus a multiple of their cost is entropy-constrained vector quantisation
(Chou, Lookabaugh and Gray 1989). Costs depend on the four neighbours here, so all tokens of a frame
are chosen together: a Markov random field, whose energy is lowered by iterated conditional modes
(Besag 1986).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SWEEPS = 3
"""Times that all tokens are chosen anew, given their neighbours."""
SMOOTHING = 4.0
"""Pairs that are added to those counted for each code, distributed as its second codes are."""


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
        alone = weight * torch.from_numpy(costs.alone)
        self.register_buffer("alone", alone, persistent=False)
        # A neighbour outside the grid costs nothing; it has the index `codes`.
        for name in ("beside", "below"):
            table = weight * torch.from_numpy(getattr(costs, name))
            self.register_buffer(name, F.pad(table, (0, 1, 0, 1)), persistent=False)

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
