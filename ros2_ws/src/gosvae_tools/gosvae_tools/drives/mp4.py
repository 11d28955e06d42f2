"""MP4 files that were joined end to end: players stop at the first joint."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """Where a part of a file begins and ends, in bytes."""

    begin: int
    end: int


class PartOfFile(io.RawIOBase):
    """A part of a file, as if it were a file."""

    def __init__(self, path: Path, part: Part) -> None:
        self._file = path.open("rb")
        self._part = part
        self._file.seek(part.begin)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into `buffer`; see :class:`io.RawIOBase`."""
        room = max(0, self._part.end - self._file.tell())
        return self._file.readinto(memoryview(buffer)[:room])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; see :class:`io.RawIOBase`."""
        base = {os.SEEK_SET: self._part.begin, os.SEEK_END: self._part.end}
        self._file.seek(base.get(whence, self._file.tell()) + offset)
        return self.tell()

    def tell(self) -> int:
        """Return the place; see :class:`io.RawIOBase`."""
        return self._file.tell() - self._part.begin

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def mp4_parts(path: Path) -> list[Part | None]:
    """Return the MP4 files that a file was joined from, or [None] where it is one file.

    Each begins with a box ``ftyp`` (ISO/IEC 14496-12), and holds its own index.
    """
    size = path.stat().st_size
    begins: list[int] = []
    with path.open("rb") as file:
        place = 0
        while place < size:
            file.seek(place)
            length, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            if kind == b"ftyp":
                begins.append(place)
            if not begins:
                break
            length = {0: size - place, 1: long}.get(length, length)
            if length < 8:
                break
            place += length
    if len(begins) < 2:
        return [None]
    return [Part(begin, end) for begin, end in zip(begins, [*begins[1:], size], strict=True)]
