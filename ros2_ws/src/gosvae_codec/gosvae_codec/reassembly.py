"""Packets in any order become frames in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .packets import Packet

_MAX_PENDING = 4
_REMEMBERED_STREAMS = 16
_RESTART_SECONDS = 1.0


class EncodedFrame(NamedTuple):
    """The packets of one frame that arrived, by slice index; never parity alone that is no use."""

    packets: Sequence[Packet]

    @property
    def complete(self) -> bool:
        """Whether every slice arrived, or can be restored from parity."""
        return len(self.packets) >= self.packets[0].slice_count


class Reassembler:
    """Collects the packets of one stream.

    A frame is handed on when as many of its packets are there as it has slices, when a newer frame
    is complete, when too many newer ones have begun, or when :meth:`expire` finds that it waited
    too long. What arrives for a frame already handed on, or older than that, is stale. A new stream
    number replaces the stream; packets of replaced streams are stale. Where nothing but stale
    packets came for a second, the sender has begun again, as a looping replay does, and so does
    this.
    """

    def __init__(self) -> None:
        self.received = 0
        """Slices of the present stream taken in, duplicates and stale ones included."""
        self.lost = 0
        """Slices of the present stream missing from frames handed on or never seen."""
        self.stale = 0
        """Packets too late or seen twice, of all streams."""
        self.newest: tuple[int, float] | None = None
        """Newest frame of the stream of which a packet came, and when the first one did."""
        self._stream: int | None = None
        self._retired: list[int] = []
        self._pending: dict[int, tuple[float, dict[int, Packet]]] = {}
        self._handed_on: int | None = None
        self._slices = 1
        self._missing: set[int] = set()
        self._accepted_at = 0.0

    @property
    def stream(self) -> int | None:
        """Number of the present stream; None before the first packet."""
        return self._stream

    def push(self, packet: Packet, now: float) -> list[EncodedFrame]:
        """Take in a checked packet and return the frames that are ready, oldest first.

        Args:
            packet: what :meth:`Packet.check` let pass.
            now: monotonic time in seconds.
        """
        retired = packet.stream in self._retired
        old = (
            packet.stream == self._stream
            and self._handed_on is not None
            and _distance(packet.sequence, self._handed_on) <= 0
        )
        if (retired or old) and now - self._accepted_at <= _RESTART_SECONDS:
            self.stale += 1
            if not retired and not packet.parity:
                self.received += 1
                if packet.sequence == self._handed_on and packet.slice_index in self._missing:
                    # The frame did not wait for it, having parity enough.
                    self._missing.remove(packet.slice_index)
                    self.lost -= 1
            return []
        if old or packet.stream != self._stream:
            self._start(packet.stream)
        self._accepted_at = now
        self.received += not packet.parity
        if self.newest is None or _distance(packet.sequence, self.newest[0]) > 0:
            self.newest = packet.sequence, now
        _, slices = self._pending.setdefault(packet.sequence, (now, {}))
        if packet.slice_index in slices or any(
            other.frame != packet.frame for other in slices.values()
        ):
            self.stale += 1
            return []
        slices[packet.slice_index] = packet
        self._pending[packet.sequence] = now, slices
        if len(slices) >= packet.slice_count:
            return self._hand_on_to(packet.sequence)
        if len(self._pending) > _MAX_PENDING:
            return self._hand_on_to(self._order()[0])
        return []

    def expire(self, before: float) -> list[EncodedFrame]:
        """Return the frames to which nothing came since that time, and all older ones."""
        late = [s for s in self._order() if self._pending[s][0] < before]
        return self._hand_on_to(late[-1]) if late else []

    def _start(self, stream: int) -> None:
        replaced = [] if self._stream is None else [self._stream]
        retired = [each for each in self._retired + replaced if each != stream]
        self._retired = retired[-_REMEMBERED_STREAMS:]
        self._stream = stream
        self._pending.clear()
        self._handed_on = self.newest = None
        self._missing = set()
        self.received = self.lost = 0

    def _order(self) -> list[int]:
        anchor = next(iter(self._pending), 0)
        return sorted(self._pending, key=lambda sequence: _distance(sequence, anchor))

    def _hand_on_to(self, newest: int) -> list[EncodedFrame]:
        frames = []
        for sequence in self._order():
            if _distance(sequence, newest) > 0:
                break
            _, slices = self._pending.pop(sequence)
            frame = EncodedFrame([slices[index] for index in sorted(slices)])
            self._slices = frame.packets[0].slice_count
            self._missing = set(range(self._slices)) - slices.keys()
            if self._handed_on is not None:
                # Of a frame never seen only its place is known: count it like its successor.
                self.lost += (_distance(sequence, self._handed_on) - 1) * self._slices
            self.lost += len(self._missing)
            self._handed_on = sequence
            if frame.complete or len(self._missing) < self._slices:
                frames.append(frame)
        return frames


def _distance(sequence: int, other: int) -> int:
    """Return how far `sequence` is ahead of `other`, in -2^31 .. 2^31 - 1 (RFC 1982)."""
    return (sequence - other + (1 << 31)) % (1 << 32) - (1 << 31)
