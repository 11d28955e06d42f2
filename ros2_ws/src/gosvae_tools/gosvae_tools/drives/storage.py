"""What a bag's storage file gives, whatever its format: topics, times, and runs of messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

Report = Callable[[str], None]
"""Takes one line that says what of a file cannot be read."""


class Topic(NamedTuple):
    """A topic of one file: its name, its messages' type, encoding, and definition as text.

    `qos` is YAML of the publishers' profiles, `digest` the type's hash.
    """

    name: str
    msgtype: str
    encoding: str
    definition: str = ""
    definition_format: str = ""
    qos: str = ""
    digest: str = ""


class Row(NamedTuple):
    """A message as it was stored: when it was recorded (ns), which topic's it is, its bytes."""

    time: int
    key: int
    data: bytes


class Run(NamedTuple):
    """Messages that are read together in the order of time; `begin` is the first one's time."""

    begin: int
    rows: Iterator[Row]


class Storage(Protocol):
    """A storage file that has been looked through."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def topics(self) -> Mapping[int, Topic]:
        """Topics by key."""

    @property
    def times(self) -> Mapping[int, Sequence[int]]:
        """When each message that is there was recorded (ns), by its topic's key."""

    @property
    def declared(self) -> Mapping[int, int]:
        """How many messages the file says to have of each key; empty where it does not."""

    @property
    def notes(self) -> Sequence[str]:
        """What is wrong with it, one line each, each with the path."""

    def runs(self, keys: Collection[int], start: int | None, report: Report) -> Iterator[Run]:
        """Yield runs that hold the messages of `keys` from the time `start` on.

        What turns out to be unreadable is left out and reported.
        """
        ...
