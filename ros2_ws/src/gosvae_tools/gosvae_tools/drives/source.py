"""What a drive is: an input that yields messages to publish, or the same frames as arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gosvae_codec.errors import GosvaeError

Pixels = npt.NDArray[np.uint8]
Role = Literal["image", "label", "camera_info", "tf", "tf_static"]
Transport = Literal["raw", "compressed"]

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


class Frame(NamedTuple):
    """A camera frame: stamp in ns, camera, uint8 (H, W, 3) RGB, uint8 (H, W) train ids if any.

    `frame_id` is that of a bag's header.
    """

    stamp: int
    camera: str
    image: Pixels
    label: Pixels | None
    frame_id: str = ""


class Source(ABC):
    """An input that can be read any number of times, each time lazily and from the start.

    Attributes:
        path: what was opened.
        cameras: base names of the cameras that it gives frames of.
        transport: "raw" or "compressed" for each camera.
        channels: all that :meth:`messages` may give.
        start, duration: time of the first message, and from it to the last one, in ns.
        interval: typical time from frame to frame in ns.
        description: one line for people.
    """

    path: Path
    cameras: tuple[str, ...]
    transport: dict[str, Transport]
    channels: tuple[Channel, ...]
    start: int
    duration: int
    interval: int
    description: str

    @abstractmethod
    def __len__(self) -> int:
        """Count frames of all cameras; for a video, as its container tells."""

    @abstractmethod
    def messages(self, offset: int = 0) -> Iterator[Message]:
        """Yield what to publish from `offset` ns after the start, in the order of time.

        Raises:
            SourceError: the input cannot be read on; the message names the file.
        """

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Yield every camera frame with its label, in the order of time.

        Raises:
            SourceError: as for :meth:`messages`, or an image cannot be converted to RGB.
        """


class Pictures(Source):
    """An input that holds pixels rather than messages, of one camera."""

    def __init__(self, path: Path, camera: str) -> None:
        self.path = path
        self.cameras = (camera,)
        self.transport = {camera: "raw"}
        self.channels = (
            Channel(f"{camera}/image_raw", IMAGE, camera, "image"),
            Channel(f"{camera}/label", IMAGE, camera, "label"),
        )
        self.start = EPOCH

    @abstractmethod
    def _read(self, offset: int) -> Iterator[Frame]:
        """Yield the frames from `offset` ns after the start."""

    def messages(self, offset: int = 0) -> Iterator[Message]:
        """See :class:`Source`."""
        image, *label = self.channels
        for frame in self._read(offset):
            yield Message(frame.stamp, frame.stamp, image, frame.image)
            if frame.label is not None:
                yield Message(frame.stamp, frame.stamp, label[0], frame.label)

    def frames(self) -> Iterator[Frame]:
        """See :class:`Source`."""
        return self._read(0)
