"""`gosvae decode`: a bag's packets to masks, without nodes.

A bag may hold packets in any order. They are sorted by stream and sequence number before decoding,
over so many packets of a camera as a few minutes have. Neither stamps nor the time of recording
matter, except that packets which come again after a second are a stream that was played again.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from gosvae_codec import (
    DecodedFrame,
    Decoder,
    EncodedFrame,
    FingerprintError,
    MissingReferenceError,
    ModelBundle,
    Packet,
    PacketError,
    Reassembler,
)
from gosvae_codec.draft import draft
from gosvae_codec.masks import colorize
from gosvae_common.messages import (
    from_packet_message,
    to_header_message,
    to_image,
    to_label_info,
)
from gosvae_common.topics import COLOR, LABEL_INFO, MASK

from .bag_writer import BagWriteError, BagWriter
from .bags import PACKET_TYPE, packets, reading
from .coding import Coding, progress
from .drives import SourceError
from .outcome import MAX_DAMAGED, Outcome, damage_problem

SORTED_PACKETS = 8192
"""Packets of a camera over which the order of sequence numbers is restored."""
AGAIN = 1_000_000_000
"""Time in ns after which a packet that comes again belongs to a stream that was played again."""

Write = Callable[[str, int, DecodedFrame], None]


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
        """Take in a packet recorded at `time` in ns, and yield what need not be kept any more."""
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


def decode(
    source: Path,
    output: Path,
    coding: Coding,
    color: bool = False,
    max_damaged: float = MAX_DAMAGED,
) -> Outcome:
    """Write the masks of a bag's packets to a bag, or to a folder of PNG files.

    Args:
        source: a bag with packets, of `gosvae encode` or recorded.
        output: an MCAP file where it ends in ``.mcap``; else a folder with
            ``<seconds>.<nanoseconds>.png`` for each mask, in a folder of its camera where there are
            several. The second mask of a stamp ends in ``_2.png``, and so on.
        coding: bundle and providers.
        color: colours instead of label ids.
        max_damaged: share of damaged packets above which the outcome has a problem.

    Raises:
        SourceError: the source cannot be read, has no packets, or none that gives a mask.
        OSError: `output` exists, or cannot be written.
        FingerprintError: a packet was made with another bundle.
        BundleError, ProviderError: as :class:`Decoder` does.
    """
    bundle = coding.load()
    cameras: dict[str, _Camera] = {}
    read = 0
    with reading(source) as reader:
        connections = [each for each in reader.connections if each.msgtype == PACKET_TYPE]
        if not connections:
            topics = ", ".join(sorted({each.topic for each in reader.connections})) or "none"
            raise SourceError(
                f"bag {source} has no packets, its topics are: {topics}; "
                "make some with `gosvae encode`, or record with record:="
            )
        total = sum(each.msgcount + reader.missing.get(each.id, 0) for each in connections)
        several = len({each.topic for each in connections}) > 1
        with (
            draft(output) as path,
            _writing(path, bundle, color, several) as write,
            progress() as bar,
        ):
            for name, time, message, _ in bar.track(packets(reader), total, description="read"):
                read += 1
                if name not in cameras:
                    cameras[name] = _Camera(name, bundle, coding, write)
                cameras[name].push(from_packet_message(message), time)
            for camera in cameras.values():
                camera.finish()
            counts = sum((camera.counts for camera in cameras.values()), Counter())
            if not counts["masks"]:
                raise SourceError(
                    f"{source}: none of its {read} packets gave a mask: {counts['rejected']} are "
                    f"damaged, {counts['frames_without_reference']} frames lack the one that they "
                    "are predicted from"
                )
    problems = [damage_problem("packets", counts["rejected"], read, max_damaged)]
    if read != total:
        problems.append(f"{read} packets were read, but the bag says to have {total}")
    names = ("frames", "masks", "masks_with_lost_slices", "frames_without_reference")
    figures: dict[str, Any] = {
        "output": str(output),
        "bundle": bundle.name,
        "fingerprint": f"{bundle.fingerprint:016x}",
        "packets": read,
        "packets_lost": counts["lost"],
        "packets_rejected": counts["rejected"],
        "packets_repeated": counts["repeated"],
        **{name: counts[name] for name in (*names, "frames_incomplete")},
    }
    return Outcome(figures, tuple(reader.notes), tuple(filter(None, problems)))


@dataclass
class _Camera:
    """One camera's packets on their way to masks, and what became of them."""

    name: str
    bundle: ModelBundle
    coding: Coding
    write: Write
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.decoder = Decoder(self.bundle, self.coding.providers, self.coding.threads)
        self.sorter = Sorter()
        self.reassembler = Reassembler()
        self.stream = 0
        self.frame: tuple[int, int] | None = None
        """Stream and sequence of `slices`."""
        self.slices: list[tuple[int, Packet]] = []

    def push(self, packet: Packet, time: int) -> None:
        """Take in a packet recorded at `time` in ns; raises FingerprintError for a foreign one."""
        try:
            bundle = self.bundle
            packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
        except FingerprintError:
            raise
        except PacketError:
            self.counts["rejected"] += 1
            return
        for each in self.sorter.push(packet, time):
            self._collect(*each)

    def finish(self) -> None:
        """Decode all that is left."""
        for each in self.sorter.rest():
            self._collect(*each)
        self._decode()
        self._end_stream()

    def _collect(self, place: _Place, time: int, packet: Packet) -> None:
        frame = place.stream, place.sequence
        if frame != self.frame:
            self._decode()
            self.frame = frame
        self.slices.append((time, packet))

    def _decode(self) -> None:
        """Decode the frame that was collected."""
        if self.frame is None or not self.slices:
            return
        if self.frame[0] != self.stream:
            self._end_stream()
            self.stream = self.frame[0]
        slices, self.slices = self.slices, []
        stale = self.reassembler.stale
        frames: list[EncodedFrame] = []
        # The packets are in order, so that nothing is waited for.
        for _, packet in slices:
            frames += self.reassembler.push(packet, 0.0)
        frames += self.reassembler.expire(float("inf"))
        if self.reassembler.stale - stale == len(slices):
            return
        self.counts["frames"] += 1
        if not frames:
            self.counts["frames_incomplete"] += 1
        for frame in frames:
            self._write(frame, max(time for time, _ in slices))

    def _write(self, frame: EncodedFrame, time: int) -> None:
        try:
            decoded = self.decoder.decode(frame.packets)
        except MissingReferenceError:
            self.counts["frames_without_reference"] += 1
        except PacketError:
            self.counts["frames_incomplete"] += 1
        else:
            self.write(self.name, time, decoded)
            self.counts["masks"] += 1
            self.counts["masks_with_lost_slices"] += not decoded.complete

    def _end_stream(self) -> None:
        self.counts["lost"] += self.reassembler.lost
        self.counts["repeated"] += self.reassembler.stale
        self.reassembler = Reassembler()


@contextmanager
def _writing(path: Path, bundle: ModelBundle, color: bool, several: bool) -> Iterator[Write]:
    """Yield what writes a mask of a camera, decoded at a time in ns."""
    if path.suffix == ".mcap":
        with BagWriter(path) as writer:
            labelled: set[str] = set()

            def write(camera: str, time: int, decoded: DecodedFrame) -> None:
                header = to_header_message(decoded.header)
                if camera not in labelled:
                    labelled.add(camera)
                    info = to_label_info(bundle, header.stamp)
                    writer.write(f"/{camera}/{LABEL_INFO}", time, info)
                encoding, topic = ("rgb8", COLOR) if color else ("mono8", MASK)
                image = to_image(_pixels(decoded, bundle, color), encoding, header)
                writer.write(f"/{camera}/{topic}", time, image)

            yield write
        return
    stamps: Counter[tuple[str, str]] = Counter()

    def save(camera: str, time: int, decoded: DecodedFrame) -> None:
        # A bag may call its topics anything.
        folder = path / camera.replace("..", "_") if several else path
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{decoded.header.sec}.{decoded.header.nanosec:09d}"
        stamps[camera, name] += 1
        place = stamps[camera, name]
        file = folder / (f"{name}.png" if place == 1 else f"{name}_{place}.png")
        pixels = _pixels(decoded, bundle, color)
        if color:
            pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
        if not cv2.imwrite(str(file), pixels):
            raise BagWriteError(f"{file} cannot be written")

    yield save
    if (files := sum(1 for _ in path.rglob("*.png"))) != stamps.total():
        raise BagWriteError(f"{stamps.total()} masks were written, but there are {files} files")


def _pixels(decoded: DecodedFrame, bundle: ModelBundle, color: bool) -> npt.NDArray[np.uint8]:
    return colorize(decoded.mask, bundle.labels) if color else decoded.mask
