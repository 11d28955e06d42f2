"""The wire format: packets of one slice each, which fit one datagram and decode alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from crc32c import crc32c

from .errors import FingerprintError, PacketError, SealError

VERSION = 2
SEALED_VERSION = 3
"""Version of packets whose payload is sealed; see :mod:`.sealing`."""
MAX_SERIALIZED_BYTES = 1400
"""Largest packet as CDR, encapsulation header included."""
MAX_PIXELS = 1 << 26
"""Largest number of pixels in a frame; it bounds the mask that a packet can request."""
REFERENCES = 64
"""Largest distance of a predicted frame from its reference; both sides keep as many frames."""

_FIELDS = struct.Struct("<iIQIIHHBBBBB")
"""What the checksum covers beside frame_id and payload."""
_BYTE_ORDERS = {b"\0\0": ">", b"\0\1": "<"}
"""By the first two bytes of a CDR encapsulation header."""
_CDR_HEADER, _CDR_FIELDS, _CDR_LENGTH = "iII", "QIIIHHBBBBB", "I"
_CDR_NAMES = (
    *("fingerprint", "stream", "sequence", "crc32c", "source_width", "source_height"),
    *("version", "levels", "reference", "slice_index", "slice_count"),
)


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
        """The fields that all packets of one frame share."""
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
        """Whether the payload is parity, which restores lost slices, rather than a slice."""
        return self.slice_index >= self.slice_count

    @cached_property
    def authenticated(self) -> bytes:
        """All fields but the payload and the checksum: frame_id, and 33 bytes of fixed fields.

        Computed once.

        Raises:
            PacketError: the stamp is out of its range.
        """
        try:
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
        except struct.error as error:
            raise PacketError(
                f"{error}: give int32 seconds and uint32 nanoseconds as the stamp, got "
                f"{self.header.sec!r} and {self.header.nanosec!r}"
            ) from error
        return self.header.frame_id.encode("utf-8", "surrogateescape") + fields

    @cached_property
    def checksum(self) -> int:
        """CRC-32C over all other fields: frame_id, fixed fields, payload. Computed once."""
        return int(crc32c(self.payload, crc32c(self.authenticated)))

    def with_payload(self, version: int, payload: bytes) -> Packet:
        """Return the packet with another version and payload, and the checksum of these."""
        head = self.head_of(version)
        crc = int(crc32c(payload, crc32c(head)))
        packet = replace(self, version=version, payload=payload, crc32c=crc)
        # Known already, and asked for by every receiver.
        vars(packet).update(authenticated=head, checksum=crc)
        return packet

    def head_of(self, version: int) -> bytes:
        """Return :attr:`authenticated` as that of a packet of another version."""
        head = self.authenticated
        return head[:-5] + bytes([version]) + head[-4:]

    def with_checksum(self) -> Packet:
        """Return the packet with :attr:`crc32c` set to the checksum of its other fields."""
        return replace(self, crc32c=self.checksum)

    def serialized_size(self) -> int:
        """Return the length of :meth:`to_bytes` without making it."""
        return serialized_overhead(self.header.frame_id) + len(self.payload)

    def to_bytes(self) -> bytes:
        """Return the packet as little-endian CDR, as DDS sends it."""
        name = self.header.frame_id.encode("utf-8", "surrogateescape") + b"\0"
        data = struct.pack("<" + _CDR_HEADER, self.header.sec, self.header.nanosec, len(name))
        data += name
        data += bytes(-len(data) % 8)
        data += struct.pack("<" + _CDR_FIELDS, *(getattr(self, name) for name in _CDR_NAMES))
        data += bytes(-len(data) % 4)
        return b"\0\1\0\0" + data + struct.pack("<I", len(self.payload)) + self.payload

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Packet:
        """Parse a packet from CDR of either byte order; :meth:`check` is still to be called.

        Raises:
            PacketError: `data` is not a serialised TokenPacket.
        """
        order, body = _BYTE_ORDERS.get(bytes(data[:2])), memoryview(data)[4:]
        try:
            if order is None:
                raise ValueError("no CDR encapsulation header")
            sec, nanosec, length = struct.unpack_from(order + _CDR_HEADER, body)
            end = struct.calcsize(order + _CDR_HEADER) + length
            name = bytes(body[end - length : end])
            if len(name) != length or not name.endswith(b"\0"):
                raise ValueError(f"frame_id of {length} bytes")
            end += -end % 8
            fields = struct.unpack_from(order + _CDR_FIELDS, body, end)
            end += struct.calcsize(order + _CDR_FIELDS)
            end += -end % 4
            (size,) = struct.unpack_from(order + _CDR_LENGTH, body, end)
            end += struct.calcsize(order + _CDR_LENGTH) + size
            # Fast CDR may pad the end to four bytes.
            if not 0 <= len(body) - end < 4:
                raise ValueError(f"payload of {size} bytes")
        except (struct.error, ValueError) as error:
            raise PacketError(f"{len(data)} bytes are no TokenPacket: {error}") from error
        header = Header(sec, nanosec, name[:-1].decode("utf-8", "surrogateescape"))
        payload = bytes(body[end - size : end])
        return cls(header=header, payload=payload, **dict(zip(_CDR_NAMES, fields, strict=True)))

    def check_intact(self) -> None:
        """Raise PacketError if the packet was damaged on the way."""
        if self.checksum != self.crc32c:
            raise PacketError(f"CRC-32C {self.checksum:08x}, packet says {self.crc32c:08x}")

    def check(self, fingerprint: int, grid: tuple[int, int], levels: int) -> None:
        """Raise unless the packet arrived intact and its header fits the receiver's bundle.

        The payload itself is checked when it is decoded.

        Args:
            fingerprint: of the receiver's bundle.
            grid: rows and columns of tokens.
            levels: residual levels of the bundle.

        Raises:
            FingerprintError: the packet was made with another bundle.
            SealError: it is sealed, and was not opened.
            PacketError: it is corrupt, of another version, or contradicts itself or the bundle.
        """
        if self.version == SEALED_VERSION:
            raise SealError("packets are sealed, but no key file is given here: set key_file")
        if self.version != VERSION:
            raise PacketError(
                f"wire format version {self.version}, this receiver reads {VERSION}: "
                "install the same release on both sides"
            )
        self.check_intact()
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


def sequence_distance(sequence: int, other: int) -> int:
    """Return how far `sequence` is ahead of `other`, in -2^31 .. 2^31 - 1 (RFC 1982)."""
    return (sequence - other + (1 << 31)) % (1 << 32) - (1 << 31)


def serialized_overhead(frame_id: str) -> int:
    """Return the size of a TokenPacket as CDR without its payload, in bytes."""
    position = 8 + 4 + len(frame_id.encode("utf-8", "surrogateescape")) + 1
    position = -(-position // 8) * 8
    position += 8 + 4 * 3 + 2 * 2 + 5
    return 4 + -(-position // 4) * 4 + 4
