"""A bag of rosbag2 as one recording, whatever its files, their format and their state."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
    Qos,
)
from rosbags.rosbag2.metadata import parse_qos

from .bag_files import ZSTD, Declared, bag_files, open_storage
from .source import SourceError, first_line
from .storage import Run, Topic
from .times import span

_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class Recording:
    """The messages of a bag that are there, in the order of time.

    What metadata.yaml says of QoS, times and counts decides nothing: its files are looked through.

    Attributes:
        path: of the bag.
        connections: topics of CDR messages, each with a type, its definition and `msgcount`, how
            many messages of it there are.
        notes: what is odd or damaged, and what is ignored, one line each.
        missing: by connection's id, how many more messages the bag says to have.
        losses: by connection's id, how many messages the reading that began last could not give.
        damage: why, one line each.

    Raises:
        SourceError: there is no file that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = bag_files(path)
        self.notes = list(files.notes)
        self._storages = []
        errors: list[SourceError] = []
        for each in files.paths:
            try:
                self._storages.append(open_storage(each))
            except SourceError as error:
                errors.append(error)
            except Exception as error:  # damaged files make the parsers raise nearly anything
                line = first_line(error)
                errors.append(SourceError(f"{each} cannot be read: {line}"))
        if not self._storages:
            raise errors[0]
        self.notes += [str(error) for error in errors]
        self.notes += [note for storage in self._storages for note in storage.notes]
        self._collect(files.declared)
        self.losses: Counter[int] = Counter()
        self.damage: list[str] = []

    def _collect(self, declared: Mapping[str, Declared]) -> None:
        """Make one connection of each topic and type."""
        places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        topics: dict[tuple[str, str], Topic] = {}
        told: Counter[tuple[str, str]] = Counter()
        ignored: Counter[tuple[str, str]] = Counter()
        for number, storage in enumerate(self._storages):
            for key, topic in storage.topics.items():
                if not _is_cdr(topic):
                    what = topic.encoding or "without an encoding"
                    if topic.encoding == "cdr":
                        what = "without a schema"
                    ignored[topic.name, what] += len(storage.times.get(key, ()))
                    continue
                name = topic.name, _full_name(topic.msgtype)
                places[name].append((number, key))
                topics.setdefault(name, topic)
                told[name] += max(storage.declared.get(key, 0), len(storage.times.get(key, ())))
        self.connections: list[Connection] = []
        self.missing: dict[int, int] = {}
        self._places: dict[tuple[int, int], Connection] = {}
        self._times: dict[int, list[int]] = {}
        for number, (name, where) in enumerate(places.items(), 1):
            times = [t for file, key in where for t in self._storages[file].times.get(key, ())]
            topic = topics[name]
            form = _FORMATS.get(topic.definition_format, MessageDefinitionFormat.NONE)
            definition = MessageDefinition(form, topic.definition)
            said = declared.get(name[0], Declared())
            ext = ConnectionExtRosbag2("cdr", _qos(topic.qos or said.qos))
            digest = topic.digest or said.digest
            connection = Connection(number, *name, definition, digest, len(times), ext, self)
            self.connections.append(connection)
            self._places |= dict.fromkeys(where, connection)
            self._times[number] = sorted(times)
            alone = sum(each == name[0] for each, _ in places) == 1
            count = max(told[name], said.messages if alone else 0)
            if count > len(times):
                self.missing[number] = count - len(times)
        for (ignored_topic, what), count in sorted(ignored.items()):
            self.notes.append(
                f"{self.path}: {count} messages of {ignored_topic} are {what}: ignored"
            )
        if not self.connections:
            reason = f"bag {self.path} has no messages in CDR, the encoding of ROS 2"
            raise SourceError("; ".join((reason, *self.notes)))

    def times(self, connection: Connection) -> list[int]:
        """Return when each message of a connection was recorded, in ns, in order."""
        return self._times[connection.id]

    @property
    def span(self) -> tuple[int, int]:
        """When the recording begins, and how long it is, in ns, as :func:`times.span` has it."""
        return span([time for times in self._times.values() for time in times])

    def messages(
        self, connections: Collection[Connection] = (), start: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, time in ns and CDR bytes of each message, in the order of time.

        Args:
            connections: those to read; none: all.
            start: the first time to read; None: all.
        """
        chosen = {each.id for each in connections or self.connections}
        self.losses = Counter()
        damage: list[str] = []
        self.damage = damage
        losses = self.losses
        for number in chosen:
            times = self._times[number]
            losses[number] = sum(start is None or time >= start for time in times)
        for time, _, file, key, data in heapq.merge(*self._runs(chosen, start, damage)):
            if file == _BEGIN:
                continue
            connection = self._places[file, key]
            if data.startswith(ZSTD):
                try:
                    data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
                except zstandard.ZstdError as error:
                    damage.append(f"{self.path}, {connection.topic} at {time} ns: {error}")
                    continue
            losses[connection.id] -= 1
            yield connection, time, data

    def _runs(
        self, chosen: Collection[int], start: int | None, damage: list[str]
    ) -> Iterator[Iterator[_Item]]:
        order = 0
        for file, storage in enumerate(self._storages):
            keys = {
                key
                for (number, key), connection in self._places.items()
                if number == file and connection.id in chosen
            }
            for run in storage.runs(keys, start, damage.append):
                order += 1
                yield _in_turn(order, file, run)


_Item = tuple[int, int, int, int, bytes]
"""Time, place among the runs, file, topic's key, data: of equal times the first run's comes first,
and data are never compared."""

_BEGIN = -1


def _in_turn(order: int, file: int, run: Run) -> Iterator[_Item]:
    """Yield a run's messages behind an item of its begin: it is read when that time comes."""
    yield run.begin, order, _BEGIN, 0, b""
    for time, key, data in run.rows:
        # Damage may have changed the time.
        yield max(time, run.begin), order, file, key, data


def _is_cdr(topic: Topic) -> bool:
    encoding = topic.encoding.lower()
    return bool(topic.msgtype) and (
        encoding == "cdr" or (not encoding and topic.definition_format in _FORMATS)
    )


def _qos(text: Any) -> list[Qos]:
    try:
        return parse_qos(text)
    except Exception:  # anything may be in there, and none of it is needed to read
        return []


def _full_name(msgtype: str) -> str:
    """Return ``package/msg/Name`` of what may be written as ``package/Name``."""
    package, _, name = msgtype.rpartition("/")
    return msgtype if "/" in package or not package else f"{package}/msg/{name}"
