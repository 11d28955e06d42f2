"""Token grids to bytes and back."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from .errors import PacketError

Tokens = npt.NDArray[np.uint16]
"""Token indices, uint16 (levels, rows, columns); the codebook size itself means absent."""


class TokenCoder(Protocol):
    """What packs bands of token rows; each band decodes alone."""

    def encode(self, tokens: Tokens) -> bytes:
        """Return the bytes of a band, uint16 (levels, rows, columns), each below `codes`."""
        ...

    def decode(self, payload: bytes, shape: tuple[int, int, int]) -> Tokens:
        """Return the band of `shape` (levels, rows, columns).

        Raises:
            PacketError: the payload cannot be a band of that shape.
        """
        ...


class FixedLengthCoder:
    """Every token in ceil(log2(codes)) bits, most significant first, level by level, row by row.

    The last byte is filled up with zero bits.
    """

    def __init__(self, codes: int) -> None:
        self._codes = codes
        self._bits = max((codes - 1).bit_length(), 1)
        self._shifts = np.arange(self._bits - 1, -1, -1, dtype=np.uint16)

    def encode(self, tokens: Tokens) -> bytes:
        """See :class:`TokenCoder`; raises ValueError for a token outside the codebook."""
        if tokens.size and int(tokens.max()) >= self._codes:
            raise ValueError(f"token {tokens.max()} with a codebook of {self._codes}")
        bits = (tokens.reshape(-1, 1) >> self._shifts) & 1
        return np.packbits(bits.astype(np.uint8)).tobytes()

    def decode(self, payload: bytes, shape: tuple[int, int, int]) -> Tokens:
        """See :class:`TokenCoder`."""
        count = shape[0] * shape[1] * shape[2]
        length = -(-count * self._bits // 8)
        if len(payload) != length:
            raise PacketError(f"payload of {len(payload)} bytes, {shape} tokens need {length}")
        bits = np.unpackbits(np.frombuffer(payload, np.uint8))
        if bits[count * self._bits :].any():
            raise PacketError("payload ends in bits that are not zero")
        weights = np.left_shift(1, self._shifts, dtype=np.uint16)
        grouped = bits[: count * self._bits].reshape(count, self._bits).astype(np.uint16)
        tokens: Tokens = (grouped * weights).sum(1, dtype=np.uint16)
        if count and int(tokens.max()) >= self._codes:
            raise PacketError(f"token {tokens.max()} with a codebook of {self._codes}")
        return tokens.reshape(shape)
