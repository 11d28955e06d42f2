"""What a demo run is judged by: the replay's report and the recorded bag become figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from gosvae_codec.errors import GosvaeError
from gosvae_codec.labels import UNLABELLED, LabelSpace
from gosvae_codec.metrics import ConfusionMatrix

from .sources import Frame, read_stamp

Mask = npt.NDArray[np.uint8]

PACKETS = "image_raw/gosvae"
MASK = "semantic/mask"


class ReportError(GosvaeError):
    """What was played or recorded cannot be judged."""


class FrameReport(NamedTuple):
    """What became of one frame: bytes of its packets, and how old its mask was in ms.

    The rate in kbit/s is what frames of its size would make. The age is nan where no mask came.
    """

    bytes: int
    kbit_per_s: float
    mask_age_ms: float


@dataclass(frozen=True)
class Delivery:
    """What crossed, counted per stamp (ns) of a camera's frames.

    Attributes:
        bag: the recorded bag.
        topic: the masks' topic.
        sent: wall time in ns at which the replay published each frame; in the order of sending.
        packet_sizes: serialised sizes of each frame's packets, CDR header included.
        arrived: wall time in ns at which each frame's mask was recorded.
    """

    bag: Path
    topic: str
    sent: dict[int, int]
    packet_sizes: dict[int, list[int]]
    arrived: dict[int, int]

    @classmethod
    def read(cls, replay_report: Path, bag: Path, camera: str) -> Delivery:
        """Read what one camera's frames became.

        Raises:
            ReportError: frames share a stamp.
        """
        frames = json.loads(replay_report.read_text())["cameras"][camera]["frames"]
        sent = {int(frame["stamp"]): int(frame["wall"]) for frame in frames}
        if repeats := len(frames) - len(sent):
            raise ReportError(
                f"{repeats} of {len(frames)} frames repeat a header stamp: masks cannot be told "
                "apart; restamp the bag"
            )
        packet_sizes: dict[int, list[int]] = {}
        arrived: dict[int, int] = {}
        with Reader(bag) as reader:
            names = {f"/{camera}/{PACKETS}": PACKETS, f"/{camera}/{MASK}": MASK}
            connections = [each for each in reader.connections if each.topic in names]
            for connection, time, data in reader.messages(connections):
                stamp = read_stamp(data)
                if names[connection.topic] == PACKETS:
                    packet_sizes.setdefault(stamp, []).append(len(data))
                else:
                    arrived.setdefault(stamp, time)
        return cls(bag, f"/{camera}/{MASK}", sent, packet_sizes, arrived)

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
        with Reader(delivery.bag) as reader:
            connections = [each for each in reader.connections if each.topic == delivery.topic]
            for connection, _, data in reader.messages(connections):
                message: Any = self._types.deserialize_cdr(data, connection.msgtype)
                rows = message.data.reshape(message.height, message.step)
                yield read_stamp(data), rows[:, : message.width]

    def take(self, stamp: int) -> Mask | None:
        """Return the mask of the frame with that stamp, uint8 (H, W); None if none came.

        Masks of frames that were sent before it are gone after that.
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


class Quality:
    """How good the masks are, over the frames whose mask came.

    Pixels whose true label is none of `labels`, those that the networks know, do not count.

    Attributes:
        frames: how many were counted.
        labelled: how many of them have true labels.
    """

    def __init__(self, labels: LabelSpace) -> None:
        self.frames = self.labelled = 0
        self._known = np.full(256, UNLABELLED, np.uint8)
        self._known[labels.ids] = labels.ids
        self._truth = ConfusionMatrix()
        self._expert_truth = ConfusionMatrix()
        self._expert = ConfusionMatrix()

    def add(self, frame: Frame, mask: Mask, expert_mask: Mask) -> None:
        """Count one frame; all masks are uint8 (H, W) label ids of the frame's size.

        Raises:
            ValueError: the masks differ in size.
        """
        self._expert.add(expert_mask, mask)
        self.frames += 1
        if frame.label is not None:
            self.labelled += 1
            truth = self._known[frame.label]
            self._truth.add(truth, mask)
            self._expert_truth.add(truth, expert_mask)

    @property
    def miou(self) -> float | None:
        """mIoU of the masks against true labels; None without labels."""
        return _miou(self._truth)

    @property
    def expert_miou(self) -> float | None:
        """mIoU of the expert's own masks against true labels; None without labels."""
        return _miou(self._expert_truth)

    @property
    def agreement(self) -> float | None:
        """mIoU of the masks with the expert's as the truth; None where no mask came."""
        return _miou(self._expert)


def _miou(matrix: ConfusionMatrix) -> float | None:
    value = matrix.miou()
    return None if np.isnan(value) else value


def figures(delivery: Delivery, quality: Quality, outputs: dict[str, str]) -> dict[str, object]:
    """Return what `gosvae demo --json` writes."""
    ages = list(delivery.mask_ages_ms.values())

    def percentile(share: float) -> float | None:
        return round(float(np.percentile(ages, share)), 2) if ages else None

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        "frames_sent": delivery.frames_sent,
        "packets": delivery.packets,
        "masks_received": delivery.masks_received,
        "bytes_per_frame": round(delivery.bytes_per_frame, 1),
        "kbit_per_s": round(delivery.kbit_per_s, 2),
        "mask_age_ms": {"p50": percentile(50), "p95": percentile(95)},
        "miou": rounded(quality.miou),
        "expert_miou": rounded(quality.expert_miou),
        "agreement": rounded(quality.agreement),
        "outputs": outputs,
    }
