"""Reassembly: packets in any order to frames in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .packets import Packet, sequence_distance

_MAX_PENDING = 4
_REMEMBERED_STREAMS = 16
_RESTART_SECONDS = 1.0


class EncodedFrame(NamedTuple):
    """The packets of one frame that arrived, by slice index; at least one slice can be decoded."""

    packets: Sequence[Packet]

    @property
    def complete(self) -> bool:
        """Whether every slice arrived, or can be restored from parity."""
        return len(self.packets) >= self.packets[0].slice_count


class Reassembler:
    """Collects the packets of one stream.

    A frame is released when as many of its packets have arrived as it has slices, when a newer
    frame is complete, when too many newer frames have begun, or when :meth:`expire` finds that it
    has waited too long. Packets of frames that were released, or of older ones, are stale. A new
    stream number replaces the stream; packets of replaced streams are stale. If only stale packets
    arrive for a second, the sender has restarted the stream, as a looping replay does, and the
    reassembler restarts with it.
    """

    def __init__(self) -> None:
        self.received = 0
        """Slices of the current stream received, including duplicates and stale ones."""
        self.lost = 0
        """Slices of the current stream missing from released frames, or from frames never seen."""
        self.stale = 0
        """Late or duplicate packets of all streams."""
        self.newest: tuple[int, float] | None = None
        """Newest frame of the stream of which a packet arrived, and the time of the first one."""
        self._stream: int | None = None
        self._retired: list[int] = []
        self._pending: dict[int, tuple[float, dict[int, Packet]]] = {}
        self._released: int | None = None
        self._slices = 1
        self._missing: set[int] = set()
        self._accepted_at = 0.0

    @property
    def stream(self) -> int | None:
        """Number of the current stream; None before the first packet."""
        return self._stream

    def push(self, packet: Packet, now: float) -> list[EncodedFrame]:
        """Add a packet and return the frames that are ready, oldest first.

        Args:
            packet: a packet that passed :meth:`Packet.check`.
            now: monotonic time in seconds.
        """
        retired = packet.stream in self._retired
        old = (
            packet.stream == self._stream
            and self._released is not None
            and sequence_distance(packet.sequence, self._released) <= 0
        )
        if (retired or old) and now - self._accepted_at <= _RESTART_SECONDS:
            self.stale += 1
            if not retired and not packet.parity:
                self.received += 1
                if packet.sequence == self._released and packet.slice_index in self._missing:
                    # The frame was released without it, as parity replaced it.
                    self._missing.remove(packet.slice_index)
                    self.lost -= 1
            return []
        if old or packet.stream != self._stream:
            self._start(packet.stream)
        self._accepted_at = now
        self.received += not packet.parity
        if self.newest is None or sequence_distance(packet.sequence, self.newest[0]) > 0:
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
            return self._release_to(packet.sequence)
        if len(self._pending) > _MAX_PENDING:
            return self._release_to(self._order()[0])
        return []

    def expire(self, before: float) -> list[EncodedFrame]:
        """Release the frames of which no packet arrived since `before`, and all older ones."""
        late = [s for s in self._order() if self._pending[s][0] < before]
        return self._release_to(late[-1]) if late else []

    def _start(self, stream: int) -> None:
        replaced = [] if self._stream is None else [self._stream]
        retired = [each for each in self._retired + replaced if each != stream]
        self._retired = retired[-_REMEMBERED_STREAMS:]
        self._stream = stream
        self._pending.clear()
        self._released = self.newest = None
        self._missing = set()
        self.received = self.lost = 0

    def _order(self) -> list[int]:
        anchor = next(iter(self._pending), 0)
        return sorted(self._pending, key=lambda sequence: sequence_distance(sequence, anchor))

    def _release_to(self, newest: int) -> list[EncodedFrame]:
        frames = []
        for sequence in self._order():
            if sequence_distance(sequence, newest) > 0:
                break
            _, slices = self._pending.pop(sequence)
            frame = EncodedFrame([slices[index] for index in sorted(slices)])
            self._slices = frame.packets[0].slice_count
            self._missing = set(range(self._slices)) - slices.keys()
            if self._released is not None:
                # The number of slices of a frame never seen is unknown: assume its successor's.
                self.lost += (sequence_distance(sequence, self._released) - 1) * self._slices
            self.lost += len(self._missing)
            self._released = sequence
            if frame.complete or len(self._missing) < self._slices:
                frames.append(frame)
        return frames
