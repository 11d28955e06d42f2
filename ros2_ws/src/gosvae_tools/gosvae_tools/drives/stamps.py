"""Stamps of serialised messages: read and moved in place."""

from __future__ import annotations

import struct
from typing import Any

from rosbags.typesys import Stores, get_typestore

from .source import TF_MESSAGE, Message

_TYPES = get_typestore(Stores.ROS2_JAZZY)

_STAMP_END = 12
"""Bytes of CDR's encapsulation header and the stamp behind it."""


def _stamp_format(data: bytes) -> str:
    # The second byte of CDR's encapsulation header is 1 for little-endian; a header's stamp,
    # int32 seconds and uint32 nanoseconds, follows the four bytes.
    return "<iI" if data[1] & 1 else ">iI"


def read_stamp(data: bytes) -> int:
    """Return the header stamp in ns of a serialised message that begins with its header.

    Raises:
        ValueError: it is too short to hold one.
    """
    if len(data) < _STAMP_END:
        raise ValueError(f"{len(data)} bytes are no message with a header")
    seconds, nanoseconds = struct.unpack_from(_stamp_format(data), data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def shifted(message: Message, by: int) -> Message:
    """Return a copy of a message that is `by` ns later, in its header and transforms too."""
    time, stamp = message.time + by, message.stamp + by
    data = message.data
    if isinstance(data, bytes) and message.channel.msgtype == TF_MESSAGE:
        content: Any = _TYPES.deserialize_cdr(data, TF_MESSAGE)
        for transform in content.transforms:
            at = transform.header.stamp
            at.sec, at.nanosec = divmod(at.sec * 1_000_000_000 + at.nanosec + by, 1_000_000_000)
        data = bytes(_TYPES.serialize_cdr(content, TF_MESSAGE))
    elif isinstance(data, bytes):
        copy = bytearray(data)
        struct.pack_into(_stamp_format(data), copy, 4, *divmod(stamp, 1_000_000_000))
        data = bytes(copy)
    return Message(time, stamp, message.channel, data)
