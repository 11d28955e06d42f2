"""`gosvae restamp`: a copy of a bag whose header stamps follow the order of recording.

An image is stamped with the time of its own recording. What shared its stamp, as its label, its
camera_info and detections in it do, shares its new stamp too. All other messages with a header are
stamped with the time of their recording, and so are all transforms of a message.
"""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from lz4.frame import compress as lz4_compress  # type: ignore[import-untyped]
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from gosvae_codec.draft import draft
from gosvae_codec.errors import GosvaeError
from gosvae_common.errors import UsageError

from .bag_writer import SUFFIXES, writing
from .bags import reading
from .coding import progress
from .drives import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from .drives.source import TF_MESSAGE
from .drives.stamps import read_stamp
from .outcome import Outcome

SECOND = 1_000_000_000
TOGETHER = SECOND
"""How far apart in ns messages of one stamp may have been recorded to share their new one."""

_TYPES = get_typestore(Stores.ROS2_JAZZY)
_NOT_FRAMES = re.compile(r"/label(/compressed)?$|/semantic/|/reconstruction$")
_LIMIT = (1 << 31) * SECOND


class RestampError(GosvaeError):
    """A bag cannot be restamped as asked for."""


class _Entry(NamedTuple):
    """One message: its connection's number, when it was recorded and its stamp, both in ns."""

    connection: int
    time: int
    stamp: int | None


def restamp(
    source: Path, output: Path, rate: float | None = None, start: float | None = None
) -> Outcome:
    """Write a copy of a bag with new header stamps.

    Topics, types, QoS profiles, storage and compression are those of the source.

    Args:
        source: a rosbag2 folder or storage file.
        output: a file where it ends in ``.mcap`` or ``.db3``, else a rosbag2 folder.
        rate: frames per second that the images of each topic are to have; then the times of
            recording change as well, those of other messages in proportion. None: the times of
            recording, unchanged.
        start: stamp in s of the first image, or of the first message of a bag without images;
            None: when it was recorded.

    Raises:
        UsageError: `rate` is not above 0, or the bag has no images to go by.
        RestampError: a stamp would be out of the range that a header has.
        SourceError: the source cannot be read.
        OSError: `output` exists, or cannot be written.
    """
    if rate is not None and not rate > 0:
        raise UsageError(f"rate is {rate:g}; give a number above 0")
    with reading(source) as reader:
        connections = list(reader.connections)
        total = sum(each.msgcount + reader.missing.get(each.id, 0) for each in connections)
        headed = [_has_stamp(each) for each in connections]
        numbers = {each.id: index for index, each in enumerate(connections)}
        entries = [
            _Entry(
                number := numbers[connection.id],
                time,
                _stamp(data, connection.msgtype) if headed[number] else None,
            )
            for connection, time, data in reader.messages(connections)
        ]
        if not entries:
            raise RestampError(f"bag {source} has no messages")
        times, stamps = _plan(connections, entries, rate, start)
        storage, mode, chunks = _layout(source)
        if output.suffix in SUFFIXES:
            # A single file has no metadata.yaml that tells of another compression.
            mode = CompressionMode.STORAGE if chunks else CompressionMode.NONE
        changed = 0
        with (
            draft(output) as path,
            writing(path, storage, mode) as writer,
            progress() as bar,
        ):
            if chunks == "lz4" and isinstance(writer.storage, McapWriter):
                writer.storage.compression, writer.storage.compressor = chunks, lz4_compress
            outputs = _add_connections(writer, connections)
            messages = bar.track(reader.messages(connections), total, description="restamped")
            for (connection, _, data), time, stamp in zip(messages, times, stamps, strict=True):
                if stamp is not None:
                    data = _stamped(data, connection.msgtype, stamp)
                    changed += 1
                writer.write(outputs[numbers[connection.id]], time, data)
            written = sum(writer.counts.values())
    new = [stamp for stamp in stamps if stamp is not None]
    figures = {
        "output": str(output),
        "messages_in_input": total,
        "messages_read": len(entries),
        "messages_written": written,
        "restamped": changed,
        "without_header": written - changed,
        "topics": len({each.topic for each in connections}),
        "first_stamp": _seconds(min(new, default=None)),
        "last_stamp": _seconds(max(new, default=None)),
    }
    problems: tuple[str, ...] = ()
    if not total == len(entries) == written:
        problems = (f"{total} messages counted, {len(entries)} read, {written} written",)
    images = Counter(
        (connections[entry.connection].topic, stamp)
        for entry, stamp in zip(entries, stamps, strict=True)
        if _is_frame(connections[entry.connection])
    )
    notes = list(reader.notes)
    if repeated := images.total() - len(images):
        notes.append(
            f"{repeated} of {images.total()} images still repeat a stamp, as their times of "
            "recording do; space them with --rate HZ"
        )
    return Outcome(figures, tuple(notes), problems)


def _has_stamp(connection: Connection) -> bool:
    """Return whether messages of a type begin with a header, or hold transforms."""
    if connection.msgtype == TF_MESSAGE:
        return True
    definition, types = connection.msgdef, dict(_TYPES.fielddefs)
    try:
        if definition.format == MessageDefinitionFormat.MSG:
            types |= get_types_from_msg(definition.data, connection.msgtype)
        elif definition.format == MessageDefinitionFormat.IDL:
            types |= get_types_from_idl(definition.data)
    except Exception:  # of a definition that does not parse nothing is known
        return False
    if connection.msgtype not in types:
        return False
    _, fields = types[connection.msgtype]
    return bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"


def _stamp(data: bytes, msgtype: str) -> int | None:
    """Return the stamp in ns of a message with a header; 0 for one with transforms.

    None where it is cut off, so that it is copied as it is.
    """
    try:
        if msgtype == TF_MESSAGE:
            _TYPES.deserialize_cdr(data, TF_MESSAGE)
            return 0
        return read_stamp(data)
    except Exception:  # rosbags raises exceptions of many types for a cut-off message
        return None


def _plan(
    connections: Sequence[Connection],
    entries: Sequence[_Entry],
    rate: float | None,
    start: float | None,
) -> tuple[list[int], list[int | None]]:
    """Return when each message is recorded in the copy, and its stamp; both in ns."""
    frames: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        if _is_frame(connections[entry.connection]):
            frames[connections[entry.connection].topic].append(index)
    images = {index for indices in frames.values() for index in indices}
    anchors = _anchors(connections, entries, images)
    first = entries[min(images, default=0)].time
    begin = first if start is None else round(start * SECOND)
    if rate is None:
        times = [max(entry.time - first + begin, 0) for entry in entries]
    elif not frames:
        raise UsageError("the bag has no images, which `rate` counts; leave it out")
    else:
        times = _at_rate(entries, frames, rate, begin)
        for index, anchor in anchors.items():
            times[index] = times[anchor]
    stamps = [
        None if entry.stamp is None else times[anchors.get(index, index)]
        for index, entry in enumerate(entries)
    ]
    for entry, stamp in zip(entries, stamps, strict=True):
        if stamp is not None and stamp >= _LIMIT:
            raise RestampError(
                f"{connections[entry.connection].topic} was recorded at {entry.time} ns, which a "
                "header cannot hold; give --rate"
            )
    return times, stamps


def _is_frame(connection: Connection) -> bool:
    return connection.msgtype in (IMAGE, COMPRESSED_IMAGE) and not _NOT_FRAMES.search(
        connection.topic
    )


def _anchors(
    connections: Sequence[Connection], entries: Sequence[_Entry], images: set[int]
) -> dict[int, int]:
    """Return for messages that belong to an image its index.

    A message belongs to the image of its stamp, the one of its camera before others. Where stamps
    repeat, the second label of a stamp belongs to its second image, and so on; of other messages
    nothing is known then.
    """
    seen: Counter[tuple[str, int]] = Counter()
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (number, _, stamp) in enumerate(entries):
        if stamp is not None:
            place = connections[number].topic, stamp
            groups[stamp, seen[place]].append(index)
            seen[place] += 1
    anchors: dict[int, int] = {}
    for (stamp, _), group in groups.items():
        candidates = [index for index in group if index in images]
        for index in group:
            connection, time = connections[entries[index].connection], entries[index].time
            near = [each for each in candidates if abs(entries[each].time - time) <= TOGETHER]
            unique = stamp != 0 and seen[connection.topic, stamp] == 1
            of_camera = connection.msgtype in (IMAGE, COMPRESSED_IMAGE, CAMERA_INFO)
            if index in images or not near or not (unique or of_camera):
                continue
            base = _base(connection.topic)
            own = (each for each in near if _base(_topic(connections, entries[each])) == base)
            anchors[index] = next(own, near[0])
    return anchors


def _topic(connections: Sequence[Connection], entry: _Entry) -> str:
    return connections[entry.connection].topic


def _base(topic: str) -> str:
    """Return what the topics of a camera hang under."""
    return topic.removesuffix("/compressed").rpartition("/")[0]


def _at_rate(
    entries: Sequence[_Entry], frames: dict[str, list[int]], rate: float, begin: int
) -> list[int]:
    """Return times in ns at which each topic's images come at `rate`, the rest between them."""
    longest = max(frames.values(), key=len)
    first = entries[longest[0]].time
    known = np.array([float(entries[index].time - first) for index in longest])
    spaced = np.arange(len(longest)) * (SECOND / rate)
    between = np.interp([float(entry.time - first) for entry in entries], known, spaced)
    times = [begin + round(each) for each in between.tolist()]
    for indices in frames.values():
        for place, index in enumerate(indices):
            times[index] = begin + round(place * SECOND / rate)
    return times


def _stamped(data: bytes, msgtype: str, stamp: int) -> bytes:
    """Return a serialised message with another stamp in ns, in all of its transforms."""
    seconds, nanoseconds = divmod(stamp, SECOND)
    if msgtype == TF_MESSAGE:
        content: Any = _TYPES.deserialize_cdr(data, TF_MESSAGE)
        for transform in content.transforms:
            at = transform.header.stamp
            at.sec, at.nanosec = seconds, nanoseconds
        return bytes(_TYPES.serialize_cdr(content, TF_MESSAGE))
    copy = bytearray(data)
    # The second byte of CDR's encapsulation header is odd for little-endian.
    struct.pack_into("<iI" if data[1] & 1 else ">iI", copy, 4, seconds, nanoseconds)
    return bytes(copy)


def _add_connections(writer: Writer, connections: Sequence[Connection]) -> list[Connection]:
    """Add connections like those of the source; publishers of like topics share one."""
    added: list[Connection] = []
    for each in connections:
        like = next(
            (
                other
                for other in added
                if (other.topic, other.msgtype, other.ext) == (each.topic, each.msgtype, each.ext)
            ),
            None,
        )
        if like is None:
            known = each.msgdef.format == MessageDefinitionFormat.NONE
            definition = (
                {"typestore": _TYPES}
                if known and each.msgtype in _TYPES.fielddefs
                else {"msgdef": each.msgdef.data, "rihs01": each.digest or f"RIHS01_{'0' * 64}"}
            )
            assert isinstance(each.ext, ConnectionExtRosbag2)
            like = writer.add_connection(
                each.topic,
                each.msgtype,
                serialization_format=each.ext.serialization_format,
                offered_qos_profiles=each.ext.offered_qos_profiles,
                **definition,
            )
        added.append(like)
    return added


def _layout(path: Path) -> tuple[StoragePlugin, CompressionMode, str]:
    """Return a bag's storage, what of it is compressed, and how chunks of MCAP are."""
    mode = CompressionMode.NONE
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if set(each.suffixes) & set(SUFFIXES))
        if (path / "metadata.yaml").exists():
            content = yaml.safe_load((path / "metadata.yaml").read_text())
            given = content["rosbag2_bagfile_information"].get("compression_mode") or "none"
            mode = CompressionMode[given.upper()]
    file = files[0]
    storage = next(SUFFIXES[each] for each in file.suffixes if each in SUFFIXES)
    if file.suffix == ".zstd":
        return storage, CompressionMode.FILE, ""
    chunks = _chunk_compression(file) if storage == StoragePlugin.MCAP else ""
    if chunks and mode == CompressionMode.NONE:
        mode = CompressionMode.STORAGE
    return storage, mode, chunks


def _chunk_compression(file: Path) -> str:
    """Return how the first chunk of an MCAP file is compressed; empty for none."""
    with file.open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(9)) == 9:
            operation, length = head[0], int.from_bytes(head[1:], "little")
            if operation == 6:
                stream.seek(28, 1)
                return stream.read(int.from_bytes(stream.read(4), "little")).decode()
            stream.seek(length, 1)
    return ""


def _seconds(stamp: int | None) -> str | None:
    return None if stamp is None else "{}.{:09d}".format(*divmod(stamp, SECOND))
