"""Bags of the pipeline's own messages: written whole or not at all, read topic by topic."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from gosvae_common.messages import type_name
from gosvae_common.topics import FEEDBACK, PACKETS
from gosvae_msgs.msg import Feedback, TokenPacket

from .drives import SourceError
from .record import message_types

Result = TypeVar("Result")

PACKET_TYPE = type_name(TokenPacket)


class Recorded(NamedTuple):
    """A message of a bag: its camera's base name, when it was recorded (ns), its CDR bytes."""

    camera: str
    time: int
    message: Any
    size: int


@contextmanager
def draft(output: Path) -> Iterator[Path]:
    """Yield a path to write to, a file or folder that becomes `output` when the block succeeds.

    Raises:
        SourceError: `output` exists, or cannot be made.
    """
    output = output.expanduser().absolute()
    if output.exists():
        raise SourceError(f"output {output} exists already; remove it or name another")
    if not output.parent.is_dir():
        raise SourceError(f"output: {output.parent} is no folder; make it, or name another")
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield folder / output.name
        (folder / output.name).rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class BagWriter:
    """An MCAP bag in the making: a file where `path` ends in ``.mcap``, else a rosbag2 folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.with_suffix(".bag") if path.suffix == ".mcap" else path
        self._writer = Writer(self._folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._types = message_types()
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            with suppress(Exception):
                self._writer.close()
            return
        self._writer.close()
        if self._folder != self._path:
            (storage,) = self._folder.glob("*.mcap")
            storage.rename(self._path)

    def write(self, topic: str, time: int, message: Any) -> None:
        """Write a ROS message, recorded at `time` in ns."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, type_name(type(message)), typestore=self._types
            )
        self._writer.write(self._connections[topic], time, serialize_message(message))


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
