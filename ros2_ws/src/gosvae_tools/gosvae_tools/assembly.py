"""Frames of packets that were recorded in any order.

Packets are sorted by stream and sequence number, over as many packets of a camera as a few minutes
have. Neither stamps nor the time of recording matter, except that packets which come again after a
second are a stream that was played again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from gosvae_codec import EncodedFrame, Packet, Reassembler

SORTED_PACKETS = 8192
"""Packets of a camera over which the order of sequence numbers is restored."""
AGAIN = 1_000_000_000
"""Time in ns after which a packet that comes again belongs to a stream that was played again."""


class _Place(NamedTuple):
    """Where a packet belongs, in the order of decoding."""

    stream: int
    """Streams of a camera in the order of their coming; one played again is another one."""
    sequence: int
    slice_index: int


class Sorter:
    """Sorts the packets of one camera by stream and sequence number.

    Sequence numbers count from the stream's first packet, so that they may wrap around at 2^32.
    """

    def __init__(self, depth: int = SORTED_PACKETS) -> None:
        """Keep at most `depth` packets."""
        self._depth = depth
        self._heap: list[tuple[_Place, int, int, Packet]] = []
        self._pushed = 0
        self._streams: dict[int, tuple[int, int]] = {}
        """Place among the streams, and first sequence number, by stream number."""
        self._begun = 0
        """Streams that have begun."""
        self._kept: dict[_Place, int] = {}
        """When the packets that are kept were recorded."""
        self._passed: tuple[_Place, int] | None = None
        """Place and time of the newest packet that is not kept any more."""

    def push(self, packet: Packet, time: int) -> Iterator[tuple[_Place, int, Packet]]:
        """Add a packet recorded at `time` in ns, and yield packets that need not be kept."""
        place = self._place(packet)
        if self._comes_again(place, time):
            del self._streams[packet.stream]
            place = self._place(packet)
        self._kept.setdefault(place, time)
        self._pushed += 1
        heapq.heappush(self._heap, (place, self._pushed, time, packet))
        if len(self._heap) > self._depth:
            yield self._pop()

    def rest(self) -> Iterator[tuple[_Place, int, Packet]]:
        """Yield all packets that are kept."""
        while self._heap:
            yield self._pop()

    def _place(self, packet: Packet) -> _Place:
        if packet.stream not in self._streams:
            self._streams[packet.stream] = self._begun, packet.sequence
            self._begun += 1
        stream, first = self._streams[packet.stream]
        distance = (packet.sequence - first + (1 << 31)) % (1 << 32) - (1 << 31)
        return _Place(stream, distance, packet.slice_index)

    def _comes_again(self, place: _Place, time: int) -> bool:
        before = self._kept.get(place)
        if before is None and self._passed is not None and place <= self._passed[0]:
            before = self._passed[1]
        return before is not None and time - before >= AGAIN

    def _pop(self) -> tuple[_Place, int, Packet]:
        place, _, time, packet = heapq.heappop(self._heap)
        self._kept.pop(place, None)
        self._passed = place, time
        return place, time, packet


class Assembly:
    """Puts the packets of one camera together to frames, in the order of sequence numbers."""

    def __init__(self) -> None:
        self.lost = 0
        """Slices missing from frames, or of frames never seen."""
        self.repeated = 0
        """Packets that came more than once, or too late to be sorted."""
        self._sorter = Sorter()
        self._reassembler = Reassembler()
        self._frame: tuple[int, int] | None = None
        """Stream and sequence of `_slices`."""
        self._slices: list[tuple[int, Packet]] = []

    def push(self, packet: Packet, time: int) -> Iterator[tuple[EncodedFrame | None, int]]:
        """Add an intact packet recorded at `time` in ns, and yield the frames that are ready.

        Each comes with the time in ns of its last packet; None is a frame of which too little is
        there to decode it.
        """
        for each in self._sorter.push(packet, time):
            yield from self._collect(*each)

    def finish(self) -> Iterator[tuple[EncodedFrame | None, int]]:
        """Yield the frames that are left, as :meth:`push` does; then the counts are complete."""
        for each in self._sorter.rest():
            yield from self._collect(*each)
        yield from self._assemble()
        self._end_stream()

    def _collect(
        self, place: _Place, time: int, packet: Packet
    ) -> Iterator[tuple[EncodedFrame | None, int]]:
        frame = place.stream, place.sequence
        if frame != self._frame:
            yield from self._assemble()
            if self._frame is not None and frame[0] != self._frame[0]:
                self._end_stream()
            self._frame = frame
        self._slices.append((time, packet))

    def _assemble(self) -> Iterator[tuple[EncodedFrame | None, int]]:
        """Yield the frame of the packets that were collected; none if all came too late."""
        slices, self._slices = self._slices, []
        stale = self._reassembler.stale
        frames: list[EncodedFrame] = []
        # The packets are in order, so that nothing is waited for.
        for _, packet in slices:
            frames += self._reassembler.push(packet, 0.0)
        frames += self._reassembler.expire(float("inf"))
        if self._reassembler.stale - stale < len(slices):
            time = max(time for time, _ in slices)
            found: list[EncodedFrame | None] = [*frames] or [None]
            yield from ((frame, time) for frame in found)

    def _end_stream(self) -> None:
        self.lost += self._reassembler.lost
        self.repeated += self._reassembler.stale
        self._reassembler = Reassembler()
