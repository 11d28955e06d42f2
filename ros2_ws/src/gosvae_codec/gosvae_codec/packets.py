"""Packets: one slice of one frame each, small enough for one datagram, useful alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import NamedTuple

from crc32c import crc32c

from .bundle import ModelBundle
from .entropy import TokenCoder, Tokens
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

    def checksum(self) -> int:
        """Return the CRC-32C over all other fields: frame_id, fixed fields, payload."""
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

    def signed(self) -> Packet:
        """Return the packet with the checksum of its other fields."""
        return replace(self, crc32c=self.checksum())

    def serialized_size(self) -> int:
        """Return the bytes that the packet takes as a CDR-serialised TokenPacket."""
        return serialized_overhead(self.header.frame_id) + len(self.payload)

    def check(self, bundle: ModelBundle) -> None:
        """Raise unless the packet arrived whole and its header fits `bundle`.

        The payload is looked at when it is decoded.

        Raises:
            FingerprintError: it was made with another bundle.
            PacketError: it is corrupt, of another version, or contradicts itself or the bundle.
        """
        if self.version != VERSION:
            raise PacketError(
                f"wire format version {self.version}, this receiver reads {VERSION}: "
                "install the same release on both sides"
            )
        if self.checksum() != self.crc32c:
            raise PacketError(f"CRC-32C {self.checksum():08x}, packet says {self.crc32c:08x}")
        if self.fingerprint != bundle.fingerprint:
            raise FingerprintError(self.fingerprint, bundle.fingerprint)
        rows = bundle.grid[0]
        if not (
            1 <= self.slice_count <= rows
            and 1 <= self.levels <= bundle.levels
            and self.reference <= REFERENCES
            and 1 <= self.source_width <= 16384
            and 1 <= self.source_height <= 16384
            and self.source_width * self.source_height <= MAX_PIXELS
            and len(self.payload) <= MAX_SERIALIZED_BYTES
        ):
            raise PacketError(
                f"{self.slice_count} slices of {rows} rows, {self.levels} of {bundle.levels} "
                f"levels, {self.source_width}x{self.source_height} pixels, a reference "
                f"{self.reference} frames back, {len(self.payload)} bytes: not a packet of ours"
            )


def band_of(index: int, count: int, rows: int) -> tuple[int, int]:
    """Return first row and end of slice `index` of `count` in a grid of `rows` rows."""
    return rows * index // count, rows * (index + 1) // count


def serialized_overhead(frame_id: str) -> int:
    """Return the bytes that a TokenPacket takes as CDR beside its payload."""
    position = 8 + 4 + len(frame_id.encode("utf-8", "surrogateescape")) + 1
    position = -(-position // 8) * 8
    position += 8 + 4 * 3 + 2 * 2 + 5
    return 4 + -(-position // 4) * 4 + 4


def slice_frame(
    tokens: Tokens,
    coder: TokenCoder,
    template: Packet,
    reference: Tokens | None = None,
    least: int = 1,
    spare: int = 0,
    likely: int = 1,
) -> list[Packet]:
    """Cut a frame into few bands of near equal height that fit the packet size.

    Args:
        tokens: uint16 (levels, rows, columns).
        coder: what packs a band.
        template: a packet with everything but the slice's own fields.
        reference: tokens of the frame that `template` refers to; None for intra.
        least: slices to make at least, as far as there are rows.
        spare: bytes to leave free in each packet.
        likely: slices to try first, best those of the frame before, as each trial codes the frame
            anew; fewer are tried if the bytes call for fewer.

    Raises:
        PacketError: not even a single row fits beside the header, whose frame_id may be too long.
    """
    rows = tokens.shape[1]
    room = MAX_SERIALIZED_BYTES - serialized_overhead(template.header.frame_id) - spare
    most = min(rows, 255)

    def cut(count: int) -> list[bytes]:
        bands = (band_of(index, count, rows) for index in range(count))
        return [coder.encode(tokens[:, first:end], first, reference) for first, end in bands]

    count = min(max(least, likely), most)
    while True:
        payloads = cut(count)
        longest = max(map(len, payloads))
        if longest <= room:
            break
        if count == most:
            raise PacketError(
                f"no slice of {tokens.shape} tokens fits {room} bytes; shorten the frame_id "
                f"({len(template.header.frame_id)} characters) or send fewer levels"
            )
        # Few numbers of slices are tried, even where a band's share of the bytes is large.
        count = min(max(count + 1, count * longest // max(room, 1)), most)
    fewer = max(least, -(-sum(map(len, payloads)) // room))
    if fewer < count <= likely:
        fitting = cut(fewer)
        if max(map(len, fitting)) <= room:
            count, payloads = fewer, fitting
    return [
        replace(
            template, levels=len(tokens), slice_index=index, slice_count=count, payload=payload
        ).signed()
        for index, payload in enumerate(payloads)
    ]
