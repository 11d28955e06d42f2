"""What a drive is: an input that yields messages to publish, or the same frames as arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from gosvae_codec.errors import GosvaeError, ImageError
from gosvae_codec.labels import CITYSCAPES, LabelSpace
from gosvae_common import topics as names

Pixels = npt.NDArray[np.uint8]
Role = Literal["image", "label", "camera_info", "tf", "tf_static"]
Transport = Literal["raw", "compressed"]
LossKind = Literal["frame", "label", "message"]
Item = TypeVar("Item")

EPOCH = 1_000_000_000
"""Stamp in ns of the first frame of an input without stamps: ROS takes 0 for "no time yet"."""

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"


class SourceError(GosvaeError):
    """An input is missing, unreadable, ambiguous, or contradicts itself."""


class AmbiguousTopicsError(SourceError):
    """A bag has several image topics, and nothing tells which ones to play."""


class Channel(NamedTuple):
    """Where a message goes: topic (relative for what belongs to a camera), type, camera, role."""

    topic: str
    msgtype: str
    camera: str
    role: Role


class Message(NamedTuple):
    """Something to publish.

    `time` is when, `stamp` that of its header, both in ns (where there is no header, they are
    equal). `data` is the serialised message of a bag, or pixels: uint8 (H, W, 3) RGB of a frame,
    uint8 (H, W) train ids of a label.
    """

    time: int
    stamp: int
    channel: Channel
    data: bytes | Pixels


@dataclass(frozen=True)
class Frame:
    """A camera frame: stamp in ns, camera, uint8 (H, W, 3) RGB, uint8 (H, W) label ids if any.

    `frame_id` is that of a bag's header. `time` is when it was recorded in ns: it never falls from
    one frame to the next, which stamps may do. `index` counts the camera's image messages from 0,
    those that could not be decoded included: with it a frame finds its message, whatever its stamp.
    """

    stamp: int
    camera: str
    image: Pixels
    label: Pixels | None
    frame_id: str = ""
    time: int = 0
    index: int = 0


@dataclass(frozen=True)
class Loss:
    """What a reading could not give: how many of what, and why, in one line that names the place.

    `count` is 0 where nothing is known to be missing, but what came may be damaged.
    """

    kind: LossKind
    count: int
    reason: str


class Source(ABC):
    """An input that can be read any number of times, each time lazily and from the start.

    What cannot be read does not end a reading: it is left out and added to `losses`. A command
    reads all frames, then compares::

        source = open_source(path)
        for note in source.notes: ...       # before reading: for people, one line each
        for frame in source.frames(): ...
        for loss in source.losses: ...      # after reading: loss.reason, loss.count
        source.lost                         # frames that the input has, or says to have, but lost

    Attributes:
        path: what was opened.
        cameras: base names of the cameras that it gives frames of.
        transport: "raw" or "compressed" for each camera.
        channels: all that :meth:`messages` may give.
        start, duration: time of the cameras' first frame, and from it to the last one, in ns;
            single times far from all others do not count.
        interval: typical time from frame to frame in ns.
        description: one line for people.
        notes: what people should know about the input before it is read, one line each.
        losses: what the reading that began last could not give; complete when it has ended.
        labels: what ids in the frames' labels mean: Cityscapes' train ids, unless others are named.
    """

    labels: LabelSpace = CITYSCAPES
    path: Path
    cameras: tuple[str, ...]
    transport: dict[str, Transport]
    channels: tuple[Channel, ...]
    start: int
    duration: int
    interval: int
    description: str
    notes: tuple[str, ...] = ()
    losses: Sequence[Loss] = ()

    @property
    def lost(self) -> int:
        """Frames that the reading that began last could not give."""
        return sum(loss.count for loss in self.losses if loss.kind == "frame")

    def count_repeated_stamps(self) -> int:
        """Count frames whose stamp an earlier frame of their camera has; a bag is read once."""
        return 0

    @abstractmethod
    def __len__(self) -> int:
        """Count frames of all cameras that the input has, or says to have.

        When a reading has ended, it gave as many and `lost` together.
        """

    def messages(self, offset: int = 0) -> Iterator[Message]:
        """Yield what to publish from `offset` ns after the start, in the order of time.

        A bag's messages are passed on as they are, whether or not their images decode.

        Raises:
            SourceError: there is not one frame that could be read, or the disk fails.
        """
        return self._counted(lambda losses: self._messages(offset, losses), self._is_image)

    def frames(self, labels: bool = True) -> Iterator[Frame]:
        """Yield every camera frame with its label, in the order of time.

        Frames that do not decode are left out, labels that do not are None; see `losses`.

        Args:
            labels: False where they are not needed: they are not read, and all are None.

        Raises:
            SourceError: there is not one frame that could be read.
        """
        return self._counted(lambda losses: self._frames(labels, losses), lambda _: True)

    def _counted(
        self, read: Callable[[list[Loss]], Iterator[Item]], is_frame: Callable[[Item], bool]
    ) -> Iterator[Item]:
        losses: list[Loss] = []
        self.losses = losses
        count = 0
        try:
            for item in read(losses):
                count += is_frame(item)
                yield item
        except OSError as error:
            raise SourceError(f"{self.path} cannot be read on: {error}") from error
        if losses and not count and (lost := [loss for loss in losses if loss.kind == "frame"]):
            raise SourceError(f"{self.path}: no frame could be read: {lost[0].reason}")

    @staticmethod
    def _is_image(message: Message) -> bool:
        return message.channel.role == "image"

    @abstractmethod
    def _messages(self, offset: int, losses: list[Loss]) -> Iterator[Message]:
        """Yield as :meth:`messages`, and add what is left out to `losses`."""

    @abstractmethod
    def _frames(self, labels: bool, losses: list[Loss]) -> Iterator[Frame]:
        """Yield as :meth:`frames`, and add what is left out to `losses`."""


class Pictures(Source):
    """An input that holds pixels rather than messages, of one camera."""

    def __init__(self, path: Path, camera: str) -> None:
        self.path = path
        self.cameras = (camera,)
        self.transport = {camera: "raw"}
        self.channels = (
            Channel(f"{camera}/{names.IMAGE}", IMAGE, camera, "image"),
            Channel(f"{camera}/{names.LABEL}", IMAGE, camera, "label"),
        )
        self.start = EPOCH

    @abstractmethod
    def _read(self, offset: int, labels: bool, losses: list[Loss]) -> Iterator[Frame]:
        """Yield the frames from `offset` ns after the start."""

    def _messages(self, offset: int, losses: list[Loss]) -> Iterator[Message]:
        image, *label = self.channels
        for frame in self._read(offset, True, losses):
            yield Message(frame.stamp, frame.stamp, image, frame.image)
            if frame.label is not None:
                yield Message(frame.stamp, frame.stamp, label[0], frame.label)

    def _frames(self, labels: bool, losses: list[Loss]) -> Iterator[Frame]:
        return self._read(0, labels, losses)


def check_label_size(ids: Pixels, image: Pixels) -> None:
    """Raise :class:`ImageError` where a label, uint8 (H, W), has not the size of its frame."""
    if ids.shape != image.shape[:2]:
        raise ImageError(
            f"it is {ids.shape[1]}x{ids.shape[0]} pixels, "
            f"its frame {image.shape[1]}x{image.shape[0]}: they must be equal"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
