"""Entropy coder: bands of token rows to bytes and back, with a bundle's prior."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import PacketError
from .prior import REACH, Prior

Tokens = npt.NDArray[np.uint16]
"""Token indices, uint16 (levels, rows, columns); the codebook size itself marks absent tokens."""


class TokenCoder:
    """Codes bands of token rows; each band is decoded independently, given its reference frame.

    Every token is a path through a binary tree. Each decision is coded by rANS (Duda 2013) with a
    probability that a small integer network computes from the tokens coded before. All arithmetic
    is exact, so the same bytes are decoded identically on every machine.
    """

    def __init__(self, prior: Prior, codes: int, grid: tuple[int, int]) -> None:
        """Load the compiled loops; they are compiled at the first use on a machine, in seconds."""
        from . import kernels

        self._kernels = kernels
        self._prior = prior
        self._codes = codes
        self._grid = grid
        self._decisions = max((codes - 1).bit_length(), 1) + 1
        levels = len(prior.levels)
        blank = np.zeros((levels, 1, grid[1]), np.uint16)
        self.decode(self.encode(blank, 0, None), levels, 0, 1, None)

    def encode(self, tokens: Tokens, first_row: int, reference: Tokens | None) -> bytes:
        """Return the payload of a band.

        Args:
            tokens: uint16 (levels, rows, columns), each below `codes`.
            first_row: row of the grid at which the band begins.
            reference: uint16 (levels, grid rows, columns), the reference frame; None for intra.

        Raises:
            ValueError: a token is outside the codebook.
        """
        if tokens.size and int(tokens.max()) >= self._codes:
            raise ValueError(f"token {tokens.max()} with a codebook of {self._codes}")
        ones, bits = self._decide(tokens, first_row, reference)
        out = np.empty(4 + 2 * len(bits), np.uint8)
        return out[self._kernels.write_bits(ones, bits, len(bits), out) :].tobytes()

    def worth(self, tokens: Tokens, reference: Tokens) -> npt.NDArray[np.float64]:
        """Return what each change since the reference frame is worth, for one level of tokens.

        The worth is the squared distance of the two codes' embeddings, that is how differently the
        decoder draws them, for each bit that the change costs. Where bytes are short, changes of
        little worth are left out: conditional replenishment (Mounts, "A video encoding system with
        conditional picture-element replenishment", 1969) with the rate-distortion ratio of Sullivan
        and Wiegand ("Rate-distortion optimization for video compression", 1998) as the condition.

        Args:
            tokens: uint16 (1, rows, columns), a whole frame.
            reference: as for :meth:`encode`.

        Returns:
            float64 (rows, columns); inf where the tokens are equal.
        """
        ones, bits = self._decide(tokens, 0, reference)
        cost = -np.log2(np.where(bits == 1, ones, (1 << 16) - ones.astype(np.float64)) / (1 << 16))
        fresh, kept = tokens[0], reference[0]
        changed = fresh != kept
        # A token's decisions follow each other; one equal to the reference's takes a single one.
        counts = np.where(changed, self._decisions, 1).ravel()
        starts = np.cumsum(counts) - counts
        costs = np.add.reduceat(cost, starts).reshape(changed.shape)
        distance = self._prior.levels[0].distance[fresh, kept]
        return np.where(changed, distance / np.maximum(costs, 1e-3), np.inf)

    def decode(
        self, payload: bytes, levels: int, first_row: int, rows: int, reference: Tokens | None
    ) -> Tokens:
        """Return the tokens of a band, uint16 (levels, rows, columns).

        The work is bounded by the size of the band, whatever the payload contains.

        Args:
            payload: the band's bytes, as :meth:`encode` returns them.
            levels: residual levels in the payload.
            first_row: as for :meth:`encode`.
            rows: rows of the band.
            reference: as for :meth:`encode`.

        Raises:
            PacketError: the payload is not exactly that of such a band.
        """
        absent = np.full((len(self._prior.levels), rows, self._grid[1]), self._codes, np.uint16)
        current, past = self._padded(absent), self._padded(reference)
        # Writable, as numba would compile the loops again for read-only arrays.
        data = np.frombuffer(bytearray(payload), np.uint8)
        lowest = self._kernels.LOWEST
        state = np.array([int.from_bytes(payload[:4], "big"), 4, len(data) < 4], np.int64)
        if not lowest <= state[0] < lowest << 8:
            state[2] = 1
        none = np.empty(0, np.uint16), np.empty(0, np.uint8)
        for level in range(levels):
            if not state[2]:
                self._code(level, current, past, first_row, rows, True, data, state, *none, 0)
        if state[2] or state[0] != lowest or state[1] != len(data):
            raise PacketError(
                f"payload of {len(payload)} bytes is no band of {levels} levels, {rows} rows from "
                f"{first_row}"
            )
        inner = current[:levels, REACH:-REACH, REACH:-REACH]
        return np.ascontiguousarray(inner.astype(np.uint16))

    def _decide(
        self, tokens: Tokens, first_row: int, reference: Tokens | None
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
        """Return the decisions of a band: the probability of a 1 in 1/65536, and the bit."""
        levels, rows, _ = tokens.shape
        most = tokens.size * self._decisions
        ones, bits = np.empty(most, np.uint16), np.empty(most, np.uint8)
        state, none = np.zeros(3, np.int64), np.empty(0, np.uint8)
        current, past = self._padded(tokens), self._padded(reference)
        count = 0
        for level in range(levels):
            count = self._code(
                level, current, past, first_row, rows, False, none, state, ones, bits, count
            )
        return ones[:count], bits[:count]

    def _padded(self, tokens: Tokens | None) -> npt.NDArray[np.int32]:
        """Return tokens, or absent ones, of all levels, padded on all sides with absent ones."""
        levels, rows = len(self._prior.levels), self._grid[0]
        if tokens is not None:
            rows = tokens.shape[1]
        shape = (levels, rows + 2 * REACH, self._grid[1] + 2 * REACH)
        padded = np.full(shape, self._codes, np.int32)
        if tokens is not None:
            padded[: len(tokens), REACH:-REACH, REACH:-REACH] = tokens
        return padded

    def _code(
        self,
        level: int,
        current: npt.NDArray[np.int32],
        past: npt.NDArray[np.int32],
        first_row: int,
        rows: int,
        decoding: bool,
        data: npt.NDArray[np.uint8],
        state: npt.NDArray[np.int64],
        ones: npt.NDArray[np.uint16],
        bits: npt.NDArray[np.uint8],
        count: int,
    ) -> int:
        tables = self._prior.levels[level]
        return int(
            self._kernels.code_level(
                level,
                current,
                past,
                first_row,
                rows,
                self._grid[1],
                tables.contexts,
                tables.table,
                tables.row,
                tables.column,
                tables.hidden,
                tables.hidden_bias,
                tables.node,
                tables.node_bias,
                tables.leaf,
                tables.code,
                self._prior.sigmoid,
                decoding,
                data,
                state,
                ones,
                bits,
                count,
            )
        )
