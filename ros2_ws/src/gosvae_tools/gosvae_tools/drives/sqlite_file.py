"""Storage files of rosbag2's sqlite3 plugin, whole or damaged."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from .source import SourceError
from .storage import Report, Row, Run, Topic

MAGIC = b"SQLite format 3\0"

_QUERY = "SELECT timestamp, id, topic_id FROM messages NOT INDEXED"
_MAX_TOPICS = 10_000
_TRIES = 100_000
"""Rows in a row that cannot be read, after which a damaged file is given up."""


class SqliteFile:
    """A file of rosbag2's sqlite3 storage; see :class:`Storage`.

    `file` is read, and told of as `path`.

    What its recorder had not moved from the write-ahead log (``-wal``) into the file, or would
    have taken back (``-journal``), is read from a copy: SQLite writes to such files.

    Raises:
        SourceError: it is no such file, or its topics cannot be read.
    """

    def __init__(self, file: Path, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.declared: dict[int, int] = {}
        self._uri = f"{file.absolute().as_uri()}?immutable=1"
        beside = [file.with_name(f"{file.name}-{kind}") for kind in ("wal", "journal")]
        beside = [each for each in beside if each.exists() and each.stat().st_size]
        if beside:
            self._copy(beside)
        self._rows: list[tuple[int, int, int]] = []
        try:
            with closing(self._connect()) as database:
                self.topics = dict(_topics(database))
                rows = self._index(database)
                # Damaged rows may hold anything.
                self._rows = sorted(row for row in rows if all(isinstance(x, int) for x in row))
        except (sqlite3.Error, LookupError) as error:
            line = str(error).partition("\n")[0]
            raise SourceError(f"{path} is no readable sqlite3 bag: {line}") from error
        self.times: dict[int, list[int]] = defaultdict(list)
        for time, _, topic in self._rows:
            self.times[topic].append(time)

    def _copy(self, beside: list[Path]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="gosvae_bag_"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            for file in (self.path, *beside):
                shutil.copyfile(file, folder / file.name)
        except OSError as error:
            raise SourceError(
                f"{self.path} has messages in {beside[0].name}, and cannot be copied to read "
                f"them: {error}; make room in {folder.parent}, or set TMPDIR"
            ) from error
        self._uri = (folder / self.path.name).as_uri()
        self.notes.append(
            f"{self.path}: its recorder did not finish it; read together with {beside[0].name}"
        )

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._uri, uri=True)
        database.text_factory = lambda text: text.decode("utf-8", "replace")
        # Else SQLite reads nothing of a file that lacks its end.
        database.execute("PRAGMA writable_schema=ON")
        return database

    def _index(self, database: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
        """Yield time, id and topic of each message that can be read."""
        last = failed = 0
        damage = ""
        try:
            (last,) = database.execute("SELECT coalesce(min(id), 1) - 1 FROM messages").fetchone()
        except sqlite3.DatabaseError:
            last = 0
        while failed < _TRIES:
            try:
                for row in _rows_behind(database, last):
                    yield row
                    last, failed = row[1], 0
                break
            except sqlite3.DatabaseError as error:
                damage = str(error)
            # The row behind the damage is found by trying: its page may be another one.
            while failed < _TRIES:
                last, failed = last + 1, failed + 1
                try:
                    row = database.execute(f"{_QUERY} WHERE id = ?", (last,)).fetchone()
                except sqlite3.DatabaseError:
                    continue
                if row is not None:
                    yield row
                    break
        if damage:
            self.notes.append(f"{self.path} is damaged ({damage}): what can be read of it is read")

    def runs(self, keys: Collection[int], start: int | None, report: Report) -> Iterator[Run]:
        """See :class:`Storage`."""
        rows = [row for row in self._rows if row[2] in keys and (start is None or row[0] >= start)]
        if rows:
            yield Run(rows[0][0], self._read(rows, report))

    def _read(self, rows: list[tuple[int, int, int]], report: Report) -> Iterator[Row]:
        with closing(self._connect()) as database:
            for time, key, topic in rows:
                try:
                    query = "SELECT data FROM messages WHERE id = ?"
                    ((data,),) = database.execute(query, (key,)).fetchall()
                except (sqlite3.DatabaseError, ValueError) as error:
                    report(f"{self.path}, message {key}: {error}")
                    continue
                yield Row(time, topic, bytes(data or b""))


def _rows_behind(database: sqlite3.Connection, last: int) -> Iterator[tuple[int, int, int]]:
    """Yield time, id and topic of the messages behind the id `last`, in the order of ids.

    Raises:
        sqlite3.DatabaseError: the file is damaged there.
    """
    for row in database.execute(f"{_QUERY} WHERE id > ? ORDER BY id", (last,)):
        if not isinstance(row[1], int) or row[1] <= last:
            # A page that points back to one above it would go on for ever.
            raise sqlite3.DatabaseError("ids of messages do not rise")
        yield row
        last = row[1]


def _topics(database: sqlite3.Connection) -> Iterator[tuple[int, Topic]]:
    """Yield each topic by its id; versions of the schema differ in their columns."""
    database.row_factory = sqlite3.Row
    tables = {row["name"] for row in database.execute("SELECT name FROM sqlite_master")}
    if missing := {"messages", "topics"} - tables:
        raise LookupError(f"it has no table {', '.join(sorted(missing))}")
    definitions: dict[str, Any] = {}
    if "message_definitions" in tables:
        rows = database.execute(f"SELECT * FROM message_definitions LIMIT {_MAX_TOPICS}")
        definitions = {row["topic_type"]: row for row in rows}
    for row in database.execute(f"SELECT * FROM topics LIMIT {_MAX_TOPICS}"):
        found = definitions.get(row["type"])
        there = dict(zip(row.keys(), row, strict=True))
        yield (
            row["id"],
            Topic(
                # Damaged rows may hold anything.
                str(row["name"] or ""),
                str(row["type"] or ""),
                str(row["serialization_format"] or ""),
                definition=str(found["encoded_message_definition"] or "") if found else "",
                definition_format=str(found["encoding"] or "") if found else "",
                qos=str(there.get("offered_qos_profiles") or ""),
                digest=str(there.get("type_description_hash") or ""),
            ),
        )
    database.row_factory = None
