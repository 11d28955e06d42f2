"""Bags of the pipeline's own messages, read topic by topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader

from gosvae_common.messages import type_name
from gosvae_common.topics import FEEDBACK, PACKETS
from gosvae_msgs.msg import Feedback, TokenPacket

from .drives import SourceError

Result = TypeVar("Result")

PACKET_TYPE = type_name(TokenPacket)


class Recorded(NamedTuple):
    """A message of a bag: its camera's base name, when it was recorded (ns), its CDR bytes."""

    camera: str
    time: int
    message: Any
    size: int


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Open a bag, folder or storage file.

    Raises:
        SourceError: it is not there or cannot be read.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a rosbag2 folder, an .mcap or .db3 file")
    reader = _parsed(path, lambda: Reader(path))
    _parsed(path, reader.open)
    try:
        yield reader
    finally:
        reader.close()


def _parsed(path: Path, parse: Callable[[], Result]) -> Result:
    """Return what `parse` does; damaged files make the parsers raise nearly anything."""
    try:
        return parse()
    except Exception as error:
        raise SourceError(
            f"bag {path} cannot be read: {error}; give a rosbag2 folder, an .mcap or .db3 file, "
            "and if its recording was cut off, try `ros2 bag reindex` or `mcap recover`"
        ) from error


def packets(reader: Reader) -> Iterator[Recorded]:
    """Yield all packets in the order of recording; `message` is a ``TokenPacket``.

    Raises:
        SourceError: the bag is damaged.
    """
    return _messages(reader, PACKETS, TokenPacket)


def feedbacks(reader: Reader) -> Iterator[Recorded]:
    """Yield all feedback in the order of recording; `message` is a ``Feedback``.

    Raises:
        SourceError: as :func:`packets`.
    """
    return _messages(reader, FEEDBACK, Feedback)


def _messages(reader: Reader, ending: str, kind: type) -> Iterator[Recorded]:
    chosen = [each for each in reader.connections if each.msgtype == type_name(kind)]
    # Of no connections there would be all messages.
    found = iter(reader.messages(chosen) if chosen else ())
    while (each := _parsed(reader.path, lambda: next(found, None))) is not None:
        connection, time, data = each
        camera = connection.topic.removesuffix(f"/{ending}").strip("/")
        message = _parsed(
            reader.path,
            lambda: deserialize_message(bytes(data), kind),  # noqa: B023
        )
        yield Recorded(camera, time, message, len(data))
