"""Bags that the tools write: MCAP or sqlite3, a rosbag2 folder or a single file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import serialize_message
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from gosvae_codec.errors import GosvaeError
from gosvae_common.detections import VISION
from gosvae_common.messages import type_name

from .bags import reading

SUFFIXES = {".mcap": StoragePlugin.MCAP, ".db3": StoragePlugin.SQLITE3}
"""Storage of an output that is a single file, by its suffix."""


class BagWriteError(GosvaeError):
    """A bag does not hold what was written to it."""


@contextmanager
def writing(
    path: Path,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.STORAGE,
) -> Iterator[Writer]:
    """Yield a writer of a bag, whose message counts are compared after the block.

    Args:
        path: a file where it ends in ``.mcap`` or ``.db3``, else a rosbag2 folder.
        storage: of a folder; a file has that of its suffix.
        compression: Zstandard compression of what.

    Raises:
        BagWriteError: the bag holds fewer or more messages than were written.
        OSError: it cannot be written.
    """
    single = path.suffix in SUFFIXES
    folder = path.with_suffix(".bag") if single else path
    writer = Writer(folder, version=9, storage_plugin=SUFFIXES.get(path.suffix, storage))
    writer.set_compression(compression, CompressionFormat.ZSTD)
    writer.open()
    try:
        yield writer
    except BaseException:
        with suppress(Exception):
            writer.abort()
        raise
    writer.close()
    check_counts(folder, writer)
    if single:
        (file,) = (each for each in folder.iterdir() if each.name != "metadata.yaml")
        file.rename(path)


def check_counts(path: Path, writer: Writer) -> None:
    """Raise BagWriteError if a finished bag does not hold the messages written to it, by topic."""
    if not sum(writer.counts.values()):
        return
    written: Counter[str] = Counter()
    for each in writer.connections:
        written[each.topic] += writer.counts[each.id]
    found: Counter[str] = Counter()
    # The counts of metadata.yaml are the writer's own; these are of the files.
    with reading(path) as reader:
        for connection in reader.connections:
            found[connection.topic] += connection.msgcount
    for topic, count in written.items():
        if found[topic] != count:
            raise BagWriteError(
                f"{count} messages of {topic} were written, but the bag holds {found[topic]}; "
                "is the disk full or damaged?"
            )


def flush(writer: Writer) -> None:
    """Write the messages so far to the disk, as an MCAP chunk that can be read without an index.

    Raises:
        OSError: they cannot be written.
    """
    storage = writer.storage
    assert isinstance(storage, McapWriter)
    # A chunk without messages has no times.
    if storage.chunk.msgs:
        storage.close_chunk()
    storage.bio.flush()
    os.fsync(storage.bio.fileno())


class BagWriter:
    """A writer of ROS messages; path as for :func:`writing`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._types = message_types()
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        self._writer = self._stack.enter_context(writing(self._path))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, topic: str, time: int, message: Any) -> None:
        """Write a ROS message, recorded at `time` in ns."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, type_name(type(message)), typestore=self._types
            )
        self._writer.write(self._connections[topic], time, serialize_message(message))


def message_types() -> Typestore:
    """Return the types of ROS 2 Jazzy, of gosvae_msgs, and of vision_msgs where installed."""
    types = get_typestore(Stores.ROS2_JAZZY)
    packages = ["gosvae_msgs", *(["vision_msgs"] if VISION is not None else [])]
    for package in packages:
        for file in Path(get_package_share_directory(package), "msg").glob("*.msg"):
            types.register(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
    return types
