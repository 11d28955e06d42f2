"""Packets: one slice of one frame each, small enough for one datagram, useful alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from crc32c import crc32c

from .bundle import ModelBundle
from .entropy import FixedLengthCoder, TokenCoder, Tokens
from .errors import FingerprintError, PacketError

VERSION = 1
KIND_INTRA = 0
KIND_PREDICTED = 1
MAX_SERIALIZED_BYTES = 1400
"""Largest packet as CDR, encapsulation header included."""

_FIELDS = struct.Struct("<iIQIIIHHHHBBBBB")


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
    reference: int
    first_row: int
    row_count: int
    source_width: int
    source_height: int
    kind: int
    levels: int
    slice_index: int
    slice_count: int
    payload: bytes
    version: int = VERSION
    crc32c: int = 0

    def checksum(self) -> int:
        """Return the CRC-32C over all other fields: frame_id, fixed fields, payload."""
        fields = _FIELDS.pack(
            self.header.sec,
            self.header.nanosec,
            self.fingerprint,
            self.stream,
            self.sequence,
            self.reference,
            self.first_row,
            self.row_count,
            self.source_width,
            self.source_height,
            self.version,
            self.kind,
            self.levels,
            self.slice_index,
            self.slice_count,
        )
        name = self.header.frame_id.encode("utf-8", "surrogateescape")
        return int(crc32c(self.payload, crc32c(fields, crc32c(name))))

    def serialized_size(self) -> int:
        """Return the bytes that the packet takes as a CDR-serialised TokenPacket."""
        return serialized_overhead(self.header.frame_id) + len(self.payload)

    def check(self, bundle: ModelBundle) -> None:
        """Raise unless the packet is whole and fits `bundle`.

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
            self.slice_index < self.slice_count
            and 1 <= self.levels <= bundle.levels
            and self.row_count >= 1
            and self.first_row + self.row_count <= rows
            and 1 <= self.source_width <= 16384
            and 1 <= self.source_height <= 16384
        ):
            raise PacketError(
                f"slice {self.slice_index} of {self.slice_count}, rows {self.first_row} + "
                f"{self.row_count} of {rows}, {self.levels} of {bundle.levels} levels, "
                f"{self.source_width}x{self.source_height} pixels do not fit together"
            )
        if self.kind != KIND_INTRA or self.reference != self.sequence:
            raise PacketError(f"frame kind {self.kind} is not supported by this receiver")
        self.tokens(bundle)

    def tokens(self, bundle: ModelBundle) -> Tokens:
        """Return the packet's band, uint16 (levels, row_count, columns).

        Raises:
            PacketError: the payload cannot be such a band.
        """
        return coder_of(bundle).decode(self.payload, (self.levels, self.row_count, bundle.grid[1]))


def coder_of(bundle: ModelBundle) -> TokenCoder:
    """Return what packs the bundle's tokens."""
    return FixedLengthCoder(bundle.codes)


def serialized_overhead(frame_id: str) -> int:
    """Return the bytes that a TokenPacket takes as CDR beside its payload."""
    position = 8 + 4 + len(frame_id.encode("utf-8", "surrogateescape")) + 1
    position = -(-position // 8) * 8
    position += 8 + 4 * 4 + 4 * 2 + 5
    return 4 + -(-position // 4) * 4 + 4


def slice_frame(tokens: Tokens, coder: TokenCoder, template: Packet) -> list[Packet]:
    """Cut a frame into as few bands of near equal height as fit the packet size.

    Args:
        tokens: uint16 (levels, rows, columns).
        coder: what packs a band.
        template: a packet with everything but the slice's own fields.

    Raises:
        PacketError: not even a single row fits beside the header, whose frame_id may be too long.
    """
    rows = tokens.shape[1]
    room = MAX_SERIALIZED_BYTES - serialized_overhead(template.header.frame_id)
    for count in range(1, min(rows, 255) + 1):
        edges = [rows * index // count for index in range(count + 1)]
        bands = list(pairwise(edges))
        payloads = [coder.encode(tokens[:, first:last]) for first, last in bands]
        if max(map(len, payloads)) > room:
            continue
        packets = []
        for index, ((first, last), payload) in enumerate(zip(bands, payloads, strict=True)):
            packet = replace(
                template,
                levels=len(tokens),
                slice_index=index,
                slice_count=count,
                first_row=first,
                row_count=last - first,
                payload=payload,
            )
            packets.append(replace(packet, crc32c=packet.checksum()))
        return packets
    raise PacketError(
        f"no slice of {tokens.shape} tokens fits {room} bytes; shorten the frame_id "
        f"({len(template.header.frame_id)} characters) or send fewer levels"
    )
