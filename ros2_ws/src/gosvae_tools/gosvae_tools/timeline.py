"""When the messages of an input are played: paced by its frames, without long pauses."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .drives import Message, Source
from .drives.stamps import shifted

SECOND = 1_000_000_000
ABSURD = 86_400 * SECOND
"""How far in ns from the others a frame's time is wrong, so that the clock does not follow it."""
STAMP_LIMIT = (1 << 31) * SECOND
"""Stamps from this on, in ns, do not fit a header."""


class Placed(NamedTuple):
    """A message with its place in the playing time.

    Attributes:
        message: what to publish.
        position: playing time in ns at which to do so, from 0 on; it never falls.
        clock: the input's time in ns then, without jumps to wrong times.
        note: what to tell people before waiting for it; empty for nothing.
    """

    message: Message
    position: int
    clock: int
    note: str = ""


@dataclass(frozen=True)
class Pace:
    """How the playing time follows the monotonic clock: both in ns, and exact over any length."""

    rate: float
    position: int
    since: int

    def time(self) -> int:
        """Return the playing time now."""
        return self.position + round((time.monotonic_ns() - self.since) * self.rate)

    def wall(self, position: int) -> int:
        """Return the monotonic clock's time at which the playing time is `position`."""
        return self.since + round((position - self.position) / self.rate)


class Timeline:
    """Places the messages of one or more rounds.

    Frames pace the rest: the time from one frame to the next is as recorded, but at most `max_gap`.
    Other messages come at their time after the last frame, or before the first one, at most
    `max_gap` from it. In the first round messages stay as they were recorded, and the clock jumps
    over a gap that is cut. Later rounds are moved behind the round before, stamps included; what
    lay beyond a gap is left out of them, unless it is a frame. Static transforms are placed in the
    first round, from the first frame on: those from before are latched when playing begins.
    """

    def __init__(self, source: Source, max_gap: int) -> None:
        """Make an empty timeline.

        Args:
            source: the input, of which start, duration and interval are used.
            max_gap: longest time in ns between two frames; at least two intervals.
        """
        self._interval = source.interval
        self._max_gap = max(max_gap, 2 * source.interval)
        self._sound = source.start - ABSURD, source.start + source.duration + ABSURD
        self._start = source.start
        self.rounds = 0
        """Rounds that have ended."""
        self._position = 0
        self._clock: int | None = None
        self._end = 0, 0
        """Position and clock of the latest message."""

    def round(self, messages: Iterable[Message]) -> Iterator[Placed]:
        """Yield the messages of one round; `messages` are in the order of time."""
        leading: list[Message] = []
        newest: int | None = None
        by = 0
        for message in messages:
            if message.channel.role == "tf_static":
                # What came before the first frame is latched already.
                if newest is not None and not self.rounds:
                    yield self._place(message, min(message.time - newest, self._max_gap), by)
                continue
            if newest is None and message.channel.role != "image":
                leading.append(message)
                continue
            if newest is None:
                newest = message.time
                by = self._begin(message.time, leading)
                yield from self._lead(leading, message.time, by)
                yield self._place(message, 0, by)
                continue
            gap = max(message.time - newest, 0)
            if message.channel.role != "image":
                if not self.rounds or gap <= self._max_gap:
                    yield self._place(message, min(gap, self._max_gap), by)
                continue
            newest = max(newest, message.time)
            note = self._advance(message.time, gap, by)
            yield self._place(message, 0, by, note)
        self.rounds += 1

    def _begin(self, first: int, leading: list[Message]) -> int:
        """Move to the first frame of a round; return by how many ns its messages are moved."""
        lead = min(first - leading[0].time, self._max_gap) if leading else 0
        begin = first if self._is_sound(first) else self._start - self._max_gap
        if self._clock is None:
            self._position, self._clock = lead, begin
            return 0
        position, clock = self._end
        self._position = position + self._interval + lead
        self._clock = clock + self._interval + lead
        return self._clock - begin

    def _is_sound(self, recorded: int) -> bool:
        low, high = self._sound
        return low <= recorded <= high

    def _lead(self, leading: list[Message], first: int, by: int) -> Iterator[Placed]:
        """Yield what was recorded before the first frame."""
        for index, message in enumerate(leading):
            early = first - message.time
            if self.rounds and early > self._max_gap:
                continue
            note = ""
            if index == 0 and early > self._max_gap:
                note = (
                    f"the first frame was recorded {_duration(early)} after the first message; "
                    f"it is played after {_duration(self._max_gap)}"
                )
            yield self._place(message, -min(early, self._max_gap), by, note)

    def _advance(self, recorded: int, gap: int, by: int) -> str:
        """Move on to a frame `recorded` then, `gap` ns after the one before; return a note."""
        assert self._clock is not None
        step = min(gap, self._max_gap)
        self._position += step
        followed = recorded + by if self._is_sound(recorded) else self._clock + step
        self._clock = max(self._clock, followed)
        if gap <= self._max_gap:
            return ""
        return (
            f"no frame for {_duration(gap)} of the input; going on after {_duration(self._max_gap)}"
        )

    def _place(self, message: Message, after: int, by: int, note: str = "") -> Placed:
        """Return a message `after` ns from the newest frame, moved `by` ns."""
        assert self._clock is not None
        position, clock = self._position + after, self._clock + after
        self._end = max(self._end, (position, clock))
        return Placed(moved(message, by) if by else message, position, clock, note)


def moved(message: Message, by: int) -> Message:
    """Return a message that is `by` ns later; as it is where its stamps would not fit a header."""
    try:
        return shifted(message, by)
    except (struct.error, OverflowError, ValueError):
        return message


def _duration(nanoseconds: int) -> str:
    """Return a time for people."""
    seconds = nanoseconds / SECOND
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 86_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 86_400:.0f} days"
