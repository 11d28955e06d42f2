"""MCAP files (https://mcap.dev/spec), whole or damaged.

A file whose summary and indexes agree is read through them. Any other one is scanned from its
begin, and what is there is read: files without summary, without message indexes, cut off anywhere.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import lz4.frame  # type: ignore[import-untyped]
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Footer, MessageIndex, Schema, Statistics

from .source import SourceError
from .storage import Report, Row, Run, Topic

MAGIC = b"\x89MCAP0\r\n"

Buffer = bytes | memoryview
_RECORD = struct.Struct("<BQ")
_CHUNK = struct.Struct("<QQQII")
_MESSAGE = struct.Struct("<HIQQ")
_FOOTER_SIZE = _RECORD.size + 20 + len(MAGIC)
_PIECE = 4096
_COMPRESSED = (b"\x04\0\0\0zstd", b"\x03\0\0\0lz4")
"""How a chunk's compression is written, which tells chunks behind damage."""


class _Chunk(NamedTuple):
    """A chunk: where its record's content begins, and when each channel's messages were logged."""

    offset: int
    times: dict[int, list[int]]


class McapFile:
    """An MCAP file; see :class:`Storage`. `file` is read, and told of as `path`.

    Raises:
        SourceError: it is no MCAP file.
    """

    def __init__(self, file: Path, path: Path) -> None:
        self.path = path
        self._file = file
        self.notes: list[str] = []
        self.declared: dict[int, int] = {}
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._chunks: list[_Chunk] = []
        self._loose: list[tuple[int, int, int, int]] = []
        self._size = file.stat().st_size
        with file.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise SourceError(f"{path} is no MCAP file: it does not begin as one")
            indexes = self._read_summary(stream)
            if indexes is None or not self._read_indexes(stream, indexes):
                self._scan(stream, [each.chunk_start_offset for each in indexes or ()])
        self.times: dict[int, list[int]] = defaultdict(list)
        for chunk in self._chunks:
            for channel, times in chunk.times.items():
                self.times[channel] += times
        for time, channel, _, _ in self._loose:
            self.times[channel].append(time)
        self.topics = {key: self._topic(channel) for key, channel in self._channels.items()}
        unknown = self.times.keys() - self.topics.keys()
        if count := sum(len(self.times[key]) for key in unknown):
            self.notes.append(f"{path}: {count} messages are of channels that it does not define")

    def _topic(self, channel: Channel) -> Topic:
        schema = self._schemas.get(channel.schema_id)
        if schema is None:
            schema = Schema(id=0, name="", encoding="", data=b"")
        return Topic(
            channel.topic,
            schema.name,
            channel.message_encoding,
            schema.data.decode("utf-8", "replace"),
            schema.encoding,
            channel.metadata.get("offered_qos_profiles", ""),
            channel.metadata.get("topic_type_hash", ""),
        )

    def _read_summary(self, file: BinaryIO) -> list[ChunkIndex] | None:
        """Read what the summary tells; return its chunk indexes, or None without a summary."""
        indexes: list[ChunkIndex] = []
        begin = self._size - _FOOTER_SIZE
        if begin < len(MAGIC):
            return None
        file.seek(begin)
        end = file.read()
        if not end.endswith(MAGIC) or end[0] != Opcode.FOOTER:
            return None
        try:
            footer = _parse(Footer, end[_RECORD.size :])
            if not footer.summary_start:
                return None
            file.seek(footer.summary_start)
            for opcode, content in _records(file.read(begin - footer.summary_start)):
                if opcode == Opcode.CHUNK_INDEX:
                    indexes.append(_parse(ChunkIndex, content))
                elif opcode == Opcode.STATISTICS:
                    self.declared = _parse(Statistics, content).channel_message_counts
                else:
                    self._define(opcode, content)
        except Exception:  # damaged records make the parsers raise nearly anything
            return None
        return indexes

    def _define(self, opcode: int, content: Buffer) -> None:
        if opcode == Opcode.SCHEMA:
            schema = _parse(Schema, content)
            self._schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = _parse(Channel, content)
            self._channels[channel.id] = channel

    def _read_indexes(self, file: BinaryIO, indexes: list[ChunkIndex]) -> bool:
        """Take the chunks' times from their indexes; False unless they have all messages."""
        for index in indexes:
            times: dict[int, list[int]] = {}
            file.seek(index.chunk_start_offset + index.chunk_length)
            try:
                for opcode, content in _records(
                    file.read(min(index.message_index_length, self._size))
                ):
                    if opcode == Opcode.MESSAGE_INDEX:
                        found = _parse(MessageIndex, content)
                        times[found.channel_id] = [time for time, _ in found.records]
            except Exception:  # as above
                times = {}
            self._chunks.append(_Chunk(index.chunk_start_offset + _RECORD.size, times))
        counts: dict[int, int] = defaultdict(int)
        for chunk in self._chunks:
            for channel, each in chunk.times.items():
                counts[channel] += len(each)
        declared = {key: count for key, count in self.declared.items() if count}
        if declared and declared == counts and counts.keys() <= self._channels.keys():
            return True
        self._chunks = []
        return False

    def _scan(self, file: BinaryIO, known: list[int]) -> None:
        """Look through the whole file; `known` are offsets of chunks."""
        position = len(MAGIC)
        ended = False
        while not ended and position < self._size:
            file.seek(position)
            head = file.read(_RECORD.size).ljust(_RECORD.size, b"\0")
            opcode, length = _RECORD.unpack(head)
            begin, end = position + _RECORD.size, position + _RECORD.size + length
            ended = opcode in (Opcode.DATA_END, Opcode.FOOTER) and end <= self._size
            if opcode == Opcode.CHUNK:
                self._scan_chunk(file, begin)
            if end <= self._size and (opcode in set(Opcode) or opcode >= 0x80):
                if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    self._try_define(opcode, file.read(length))
                elif opcode == Opcode.MESSAGE and length >= _MESSAGE.size:
                    channel, _, time, _ = _MESSAGE.unpack(file.read(_MESSAGE.size))
                    self._loose.append((time, channel, begin + _MESSAGE.size, end))
                position = end
                continue
            after = self._next_chunk(file, position, known)
            self._note_damage(position, after)
            if after is None:
                return
            position = after
        if not ended:
            self._note_damage(position, None)

    def _note_damage(self, position: int, after: int | None) -> None:
        if after is not None:
            self.notes.append(f"{self.path} is damaged from byte {position} to {after}")
            return
        count = sum(len(times) for chunk in self._chunks for times in chunk.times.values())
        self.notes.append(
            f"{self.path} was cut off: {count + len(self._loose)} messages were read from its "
            f"{self._size} bytes"
        )

    def _next_chunk(self, file: BinaryIO, position: int, known: list[int]) -> int | None:
        """Return where the next chunk behind a damaged place begins, or None."""
        found = [offset for offset in known if offset > position]
        file.seek(position + 1)
        rest = file.read()
        for written in _COMPRESSED:
            place = rest.find(written)
            while place >= 0 and not found:
                start = place - _RECORD.size - _CHUNK.size
                if start >= 0 and rest[start] == Opcode.CHUNK:
                    found.append(position + 1 + start)
                place = rest.find(written, place + 1)
        return min(found, default=None)

    def _scan_chunk(self, file: BinaryIO, offset: int) -> None:
        times: dict[int, list[int]] = defaultdict(list)
        for opcode, content in _records(_chunk_data(file, offset, lambda _: None)):
            if opcode == Opcode.MESSAGE:
                channel, _, time, _ = _MESSAGE.unpack_from(content)
                times[channel].append(time)
            else:
                self._try_define(opcode, content)
        self._chunks.append(_Chunk(offset, dict(times)))
        file.seek(offset)

    def _try_define(self, opcode: int, content: Buffer) -> None:
        try:
            self._define(opcode, content)
        except Exception as error:  # as above
            self.notes.append(f"{self.path} has a damaged record of a channel or schema: {error}")

    def runs(self, keys: Collection[int], start: int | None, report: Report) -> Iterator[Run]:
        """See :class:`Storage`."""
        for chunk in self._chunks:
            wanted = [
                time
                for key in keys
                for time in chunk.times.get(key, ())
                if start is None or time >= start
            ]
            if wanted:
                yield Run(min(wanted), self._chunk_rows(chunk, keys, start, report))
        loose = sorted(
            each for each in self._loose if each[1] in keys and (start is None or each[0] >= start)
        )
        if loose:
            yield Run(loose[0][0], self._loose_rows(loose))

    def _chunk_rows(
        self, chunk: _Chunk, keys: Collection[int], start: int | None, report: Report
    ) -> Iterator[Row]:
        def damaged(reason: str) -> None:
            report(f"{self.path}, chunk at byte {chunk.offset - _RECORD.size}: {reason}")

        rows: list[Row] = []
        with self._file.open("rb") as file:
            data = _chunk_data(file, chunk.offset, damaged)
        for opcode, content in _records(data):
            if opcode == Opcode.MESSAGE:
                key, _, time, _ = _MESSAGE.unpack_from(content)
                if key in keys and (start is None or time >= start):
                    rows.append(Row(time, key, bytes(content[_MESSAGE.size :])))
        yield from sorted(rows, key=lambda row: row.time)

    def _loose_rows(self, loose: list[tuple[int, int, int, int]]) -> Iterator[Row]:
        with self._file.open("rb") as file:
            for time, key, begin, end in loose:
                file.seek(begin)
                yield Row(time, key, file.read(end - begin))


def _parse(kind: Any, content: Buffer) -> Any:
    return kind.read(ReadDataStream(BytesIO(content)))


def _records(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield opcode and content of the whole records at the begin of `data`."""
    view = memoryview(data)
    position = 0
    while position + _RECORD.size <= len(view):
        opcode, length = _RECORD.unpack_from(view, position)
        begin, position = position + _RECORD.size, position + _RECORD.size + length
        short = opcode == Opcode.MESSAGE and length < _MESSAGE.size
        if opcode == 0 or short or position > len(view):
            return
        yield opcode, view[begin:position]


def _chunk_data(file: BinaryIO, offset: int, damaged: Report) -> bytes:
    """Return a chunk's records, decompressed as far as they are there."""
    file.seek(offset)
    head = file.read(_CHUNK.size)
    if len(head) < _CHUNK.size:
        damaged("it was cut off")
        return b""
    _, _, size, crc, name_length = _CHUNK.unpack(head)
    rest = file.read(min(name_length, _PIECE) + 8)
    compression = rest[:name_length].decode("utf-8", "replace")
    if len(rest) < name_length + 8:
        damaged("it was cut off")
        return b""
    (length,) = struct.unpack_from("<Q", rest, name_length)
    data = file.read(min(length, os.fstat(file.fileno()).st_size))
    if compression not in ("", "zstd", "lz4"):
        damaged(f"compression {compression!r} is unknown")
        return b""
    records = _decompressed(data, compression)
    if len(records) < size:
        damaged(f"{len(records)} of {size} bytes can be read")
    elif crc and zlib.crc32(records) != crc:
        damaged("it fails its checksum: its messages may be damaged")
    return records


def _decompressed(data: bytes, compression: str) -> bytes:
    """Return `data` decompressed as far as it goes."""
    if not compression:
        return data
    decoder: Any = (
        zstandard.ZstdDecompressor().decompressobj()
        if compression == "zstd"
        else lz4.frame.LZ4FrameDecompressor()
    )
    done: list[bytes] = []
    try:
        # In pieces: a piece that fails gives nothing.
        for begin in range(0, len(data), _PIECE):
            done.append(decoder.decompress(data[begin : begin + _PIECE]))
    except (zstandard.ZstdError, RuntimeError, EOFError):
        pass
    return b"".join(done)
