"""Packets and masks of a demo run, from the replay's report and the recorded bags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gosvae_common.boxes import Box
from gosvae_common.detections import from_detections
from gosvae_common.topics import DETECTIONS, FEEDBACK, MASK, PACKETS
from gosvae_tools.drives.stamps import read_stamp

Mask = npt.NDArray[np.uint8]


class FrameReport(NamedTuple):
    """Size of one frame's packets in bytes, and the age of its mask in ms.

    The rate in kbit/s is that of a stream of frames of this size. The age is nan if no mask came.
    """

    bytes: int
    kbit_per_s: float
    mask_age_ms: float


class Feedback(NamedTuple):
    """Feedback of a receiver: time of recording (ns), and the fields of that name."""

    time: int
    packets_received: int
    packets_lost: int
    coverage: float


class Usage(NamedTuple):
    """Traffic of a link in one direction: kbit/s of Ethernet frames, and the share lost."""

    kbit_per_s: float
    loss: float


@dataclass(frozen=True)
class Delivery:
    """Packets and masks of a camera's frames, by the frame's stamp (ns) in the drive.

    Attributes:
        bags: the recorded bags, one or one of each side; the masks are in the last one.
        topic: the masks' topic.
        stamps: the drive's stamp of each stamp that was sent.
        sent: wall time in ns at which the replay published each frame; in the order of sending.
        packet_sizes: serialised sizes of each frame's packets, CDR header included.
        arrived: wall time in ns at which each frame's mask was recorded.
        feedback: the receiver's, in the order of recording.
        boxes: of each frame, with bundles that detect objects.
    """

    bags: Sequence[Path]
    topic: str
    stamps: dict[int, int]
    sent: dict[int, int]
    packet_sizes: dict[int, list[int]]
    arrived: dict[int, int]
    feedback: Sequence[Feedback]
    boxes: Mapping[int, Sequence[Box]] = field(default_factory=dict)

    @classmethod
    def read(cls, replay_report: Path, bags: Sequence[Path], camera: str) -> Delivery:
        """Read the packets and masks of one camera, whose frames all have different stamps."""
        frames = json.loads(replay_report.read_text())["cameras"][camera]["frames"]
        stamps = {int(frame["stamp"]): int(frame["recorded"]) for frame in frames}
        sent = {int(frame["recorded"]): int(frame["wall"]) for frame in frames}
        packet_sizes: dict[int, list[int]] = {}
        arrived: dict[int, int] = {}
        feedback: list[Feedback] = []
        boxes: dict[int, list[Box]] = {}
        types = get_typestore(Stores.ROS2_JAZZY)
        names = {f"/{camera}/{name}": name for name in (PACKETS, MASK, FEEDBACK, DETECTIONS)}
        for bag in bags:
            with Reader(bag) as reader:
                connections = [each for each in reader.connections if each.topic in names]
                for each in connections:
                    if each.msgtype not in types.types:
                        types.register(get_types_from_msg(each.msgdef.data, each.msgtype))
                # An empty list of connections would select all of them.
                for connection, time, data in reader.messages(connections) if connections else ():
                    if names[connection.topic] == FEEDBACK:
                        said: Any = types.deserialize_cdr(data, connection.msgtype)
                        counts = int(said.packets_received), int(said.packets_lost)
                        feedback.append(Feedback(time, *counts, float(said.coverage)))
                    elif (stamp := stamps.get(read_stamp(data))) is None:
                        continue
                    elif names[connection.topic] == PACKETS:
                        packet_sizes.setdefault(stamp, []).append(len(data))
                    elif names[connection.topic] == DETECTIONS:
                        found: Any = types.deserialize_cdr(data, connection.msgtype)
                        boxes[stamp] = from_detections(found)
                    else:
                        arrived.setdefault(stamp, time)
        topic = f"/{camera}/{MASK}"
        return cls(bags, topic, stamps, sent, packet_sizes, arrived, feedback, boxes)

    @property
    def frames_sent(self) -> int:
        """Frames that the replay sent."""
        return len(self.sent)

    @property
    def masks_received(self) -> int:
        """Frames whose mask was recorded."""
        return len(self.sent.keys() & self.arrived.keys())

    @property
    def packets(self) -> int:
        """Packets recorded."""
        return sum(len(sizes) for sizes in self.packet_sizes.values())

    @property
    def bytes_per_frame(self) -> float:
        """Mean bytes of a frame that was sent as packets; 0 where none was."""
        sizes = [sum(sizes) for sizes in self.packet_sizes.values()]
        return float(np.mean(sizes)) if sizes else 0.0

    @property
    def frames_per_s(self) -> float:
        """Rate of sending, over the time from the first to the last frame; 0 for a single one."""
        walls = list(self.sent.values())
        return (len(walls) - 1) / (walls[-1] - walls[0]) * 1e9 if len(walls) > 1 else 0.0

    @property
    def kbit_per_s(self) -> float:
        """Mean rate of all packets at the rate of sending."""
        size = sum(sum(sizes) for sizes in self.packet_sizes.values())
        return size / len(self.sent) * 8 / 1000 * self.frames_per_s

    @property
    def mask_ages_ms(self) -> dict[int, float]:
        """Time from publishing a frame to recording its mask in ms, by stamp."""
        return {
            stamp: (self.arrived[stamp] - wall) / 1e6
            for stamp, wall in self.sent.items()
            if stamp in self.arrived
        }

    @property
    def coverage(self) -> float | None:
        """Mean share of a mask that was decoded from what arrived, 0 to 1.

        Over the receiver's feedback from the first mask to the last, each with its newest mask;
        None without any.
        """
        first, last = min(self.arrived.values(), default=0), max(self.arrived.values(), default=0)
        shares = [each.coverage for each in self.feedback if first <= each.time <= last]
        return float(np.mean(shares)) if shares else None

    @property
    def loss(self) -> float | None:
        """Share of the packets that did not arrive, as the receiver counts; None if it did not."""
        if not self.feedback:
            return None
        last = self.feedback[-1]
        return last.packets_lost / max(last.packets_received + last.packets_lost, 1)

    @property
    def longest_gap_ms(self) -> float:
        """Longest time without a new mask, from sending the first frame to sending the last."""
        walls = list(self.sent.values())
        times = sorted(self.arrived.values())
        times = [walls[0], *times, max([walls[-1], *times[-1:]])]
        return float(np.diff(times).max()) / 1e6

    def frames(self) -> Iterator[tuple[int, FrameReport]]:
        """Yield stamp and report of each frame in the order of sending."""
        ages, rate = self.mask_ages_ms, self.frames_per_s
        for stamp in self.sent:
            size = sum(self.packet_sizes.get(stamp, ()))
            yield stamp, FrameReport(size, size * 8 / 1000 * rate, ages.get(stamp, float("nan")))


class Masks:
    """The recorded masks, each taken once, in the order of sending, whatever their stamps are."""

    def __init__(self, delivery: Delivery) -> None:
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._recorded = self._read(delivery)
        self._arrived = delivery.arrived
        self._place = {stamp: place for place, stamp in enumerate(delivery.sent)}
        self._ahead: dict[int, Mask] = {}

    def _read(self, delivery: Delivery) -> Iterator[tuple[int, Mask]]:
        with Reader(delivery.bags[-1]) as reader:
            connections = [each for each in reader.connections if each.topic == delivery.topic]
            for connection, _, data in reader.messages(connections):
                message: Any = self._types.deserialize_cdr(data, connection.msgtype)
                rows = message.data.reshape(message.height, message.step)
                yield delivery.stamps.get(read_stamp(data), -1), rows[:, : message.width]

    def take(self, stamp: int) -> Mask | None:
        """Return the mask of the frame with that stamp, uint8 (H, W); None if none came.

        Masks of frames that were sent before it cannot be taken any more.
        """
        if stamp not in self._arrived:
            return None
        place = self._place[stamp]
        self._ahead = {key: mask for key, mask in self._ahead.items() if self._place[key] >= place}
        while stamp not in self._ahead:
            recorded, mask = next(self._recorded)
            if self._place.get(recorded, -1) >= place:
                self._ahead.setdefault(recorded, mask)
        return self._ahead.pop(stamp)
