"""The wire format: packets of one slice each, which fit one datagram and decode alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from crc32c import crc32c

from .errors import FingerprintError, PacketError

VERSION = 2
MAX_SERIALIZED_BYTES = 1400
"""Largest packet as CDR, encapsulation header included."""
MAX_PIXELS = 1 << 26
"""Largest frame, which bounds the mask that a packet can ask for."""
REFERENCES = 64
"""How many frames back a predicted frame's reference may lie, which both sides remember."""

_FIELDS = struct.Struct("<iIQIIHHBBBBB")


class Header(NamedTuple):
    """Stamp and frame_id of a camera frame, as in ``std_msgs/Header``."""

    sec: int = 0
    nanosec: int = 0
    frame_id: str = ""


@dataclass(frozen=True)
class Packet:
    """The fields of ``gosvae_msgs/TokenPacket``, which documents them."""

    header: Header
    fingerprint: int
    stream: int
    sequence: int
    source_width: int
    source_height: int
    levels: int
    reference: int
    slice_index: int
    slice_count: int
    payload: bytes
    version: int = VERSION
    crc32c: int = 0

    @property
    def frame(self) -> tuple[object, ...]:
        """What all packets of one frame have in common."""
        return (
            self.header,
            self.stream,
            self.sequence,
            self.source_width,
            self.source_height,
            self.levels,
            self.reference,
            self.slice_count,
        )

    @property
    def parity(self) -> bool:
        """Whether the payload restores lost slices instead of being one."""
        return self.slice_index >= self.slice_count

    @cached_property
    def checksum(self) -> int:
        """CRC-32C over all other fields: frame_id, fixed fields, payload. Computed once."""
        fields = _FIELDS.pack(
            self.header.sec,
            self.header.nanosec,
            self.fingerprint,
            self.stream,
            self.sequence,
            self.source_width,
            self.source_height,
            self.version,
            self.levels,
            self.reference,
            self.slice_index,
            self.slice_count,
        )
        name = self.header.frame_id.encode("utf-8", "surrogateescape")
        return int(crc32c(self.payload, crc32c(fields, crc32c(name))))

    def with_checksum(self) -> Packet:
        """Return the packet with :attr:`crc32c` set to the checksum of its other fields."""
        return replace(self, crc32c=self.checksum)

    def serialized_size(self) -> int:
        """Return the bytes that the packet takes as a CDR-serialised TokenPacket."""
        return serialized_overhead(self.header.frame_id) + len(self.payload)

    def check(self, fingerprint: int, grid: tuple[int, int], levels: int) -> None:
        """Raise unless the packet arrived intact and its header fits the receiver's bundle.

        The payload itself is checked when it is decoded.

        Args:
            fingerprint: of the receiver's bundle.
            grid: rows and columns of tokens.
            levels: residual levels of the bundle.

        Raises:
            FingerprintError: the packet was made with another bundle.
            PacketError: it is corrupt, of another version, or contradicts itself or the bundle.
        """
        if self.version != VERSION:
            raise PacketError(
                f"wire format version {self.version}, this receiver reads {VERSION}: "
                "install the same release on both sides"
            )
        if self.checksum != self.crc32c:
            raise PacketError(f"CRC-32C {self.checksum:08x}, packet says {self.crc32c:08x}")
        if self.fingerprint != fingerprint:
            raise FingerprintError(self.fingerprint, fingerprint)
        rows = grid[0]
        if not (
            1 <= self.slice_count <= rows
            and 1 <= self.levels <= levels
            and self.reference <= REFERENCES
            and 1 <= self.source_width <= 16384
            and 1 <= self.source_height <= 16384
            and self.source_width * self.source_height <= MAX_PIXELS
            and len(self.payload) <= MAX_SERIALIZED_BYTES
        ):
            raise PacketError(
                f"{self.slice_count} slices of {rows} rows, {self.levels} of {levels} "
                f"levels, {self.source_width}x{self.source_height} pixels, a reference "
                f"{self.reference} frames back, {len(self.payload)} bytes: not a valid packet"
            )


def serialized_overhead(frame_id: str) -> int:
    """Return the bytes that a TokenPacket takes as CDR beside its payload."""
    position = 8 + 4 + len(frame_id.encode("utf-8", "surrogateescape")) + 1
    position = -(-position // 8) * 8
    position += 8 + 4 * 3 + 2 * 2 + 5
    return 4 + -(-position // 4) * 4 + 4
