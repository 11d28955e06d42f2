"""Bags of rosbag2, MCAP or sqlite3."""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from gosvae_codec.errors import ImageError
from gosvae_codec.images import ImageConverter
from gosvae_common import topics as names

from .source import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TF_MESSAGE,
    AmbiguousTopicsError,
    Channel,
    Frame,
    Loss,
    LossKind,
    Message,
    Pixels,
    Role,
    Source,
    SourceError,
    check_label_size,
)
from .stamps import read_stamp

BAG_SUFFIXES = (".mcap", ".db3")

_TYPES = get_typestore(Stores.ROS2_JAZZY)

_LABEL_WAIT = 1_000_000_000
"""How far in ns behind its frame a bag may hold a label."""


class Bag(Source):
    """A rosbag2 folder or storage file, MCAP or sqlite3; messages are passed on unchanged."""

    def __init__(self, path: Path, cameras: Sequence[str], topics: Sequence[str]) -> None:
        self.path = path
        self.cameras = tuple(cameras)
        with self._reading(), Reader(path) as reader:
            types = {each.topic: each.msgtype for each in reader.connections if each.msgcount}
            # A topic has a connection for each of its publishers.
            counts: Counter[tuple[str, str]] = Counter()
            for each in reader.connections:
                counts[each.topic, each.msgtype] += each.msgcount
            self.start = reader.start_time
            self.duration = max(0, reader.duration - 1)
            chosen = self._choose(types, topics)
            first = chosen[self.cameras[0]]
            self.interval = _interval(reader, first, types[first])
        self._channels = dict(self._map(types, chosen))
        self.channels = tuple(self._channels.values())
        self.transport = {
            camera: "compressed" if types[topic] == COMPRESSED_IMAGE else "raw"
            for camera, topic in chosen.items()
        }
        self._count = sum(counts[topic, types[topic]] for topic in chosen.values())
        played = ", ".join(f"{topic} as {camera}" for camera, topic in chosen.items())
        self.description = f"{path}: bag, {self._count} frames: {played}"

    def _choose(self, types: dict[str, str], topics: Sequence[str]) -> dict[str, str]:
        """Return the bag's image topic for each camera."""
        images = sorted(
            topic
            for topic, msgtype in types.items()
            if msgtype in (IMAGE, COMPRESSED_IMAGE)
            and not re.search(
                r"/label(/compressed)?$|/semantic/|/reconstruction$|/compressedDepth$", topic
            )
        )
        there = f"its image topics are: {', '.join(images)}"
        if not images:
            raise SourceError(f"bag {self.path} has no image topics, only: {', '.join(types)}")
        if topics:
            if len(topics) != len(self.cameras):
                raise SourceError(
                    f"{len(topics)} topics given for {len(self.cameras)} cameras "
                    f"({', '.join(self.cameras)}); give one for each, in the same order"
                )
            for topic in topics:
                if types.get(topic) not in (IMAGE, COMPRESSED_IMAGE):
                    raise SourceError(f"bag {self.path} has no images on {topic}; {there}")
            return dict(zip(self.cameras, topics, strict=True))
        named = {
            camera: topic
            for camera in self.cameras
            for ending in ("/compressed", "")
            if (topic := f"/{camera}/{names.IMAGE}{ending}") in images
        }
        both = {f"{topic}/compressed" for topic in images}
        others = [topic for topic in images if topic not in both and topic not in named.values()]
        unnamed = [camera for camera in self.cameras if camera not in named]
        if unnamed and len(others) != len(unnamed):
            raise AmbiguousTopicsError(
                f"cannot tell which images of bag {self.path} belong to "
                f"{', '.join(unnamed)}: {there}; set `topics` to one for each camera"
            )
        chosen = named | dict(zip(unnamed, others, strict=False))
        return {camera: chosen[camera] for camera in self.cameras}

    def _map(self, types: dict[str, str], chosen: dict[str, str]) -> Iterator[tuple[str, Channel]]:
        """Yield the bag's topics that are played, each with where it goes."""
        for camera, topic in chosen.items():
            ending = "/compressed" if types[topic] == COMPRESSED_IMAGE else ""
            yield topic, Channel(f"{camera}/{names.IMAGE}{ending}", types[topic], camera, "image")
            base = topic.removesuffix("/compressed").rpartition("/")[0]
            for name, msgtype, role in _BESIDE_IMAGES:
                if types.get(f"{base}/{name}") == msgtype:
                    yield f"{base}/{name}", Channel(f"{camera}/{name}", msgtype, camera, role)
        for topic, role in _TRANSFORMS:
            if types.get(topic) == TF_MESSAGE:
                yield topic, Channel(topic, TF_MESSAGE, "", role)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except Exception as error:  # damaged files make the parsers raise nearly anything
            raise SourceError(
                f"bag {self.path} cannot be read: {error}; if its recording was cut off, "
                "try `ros2 bag reindex` or `mcap recover`"
            ) from error

    def __len__(self) -> int:
        return self._count

    def _messages(self, offset: int, losses: list[Loss]) -> Iterator[Message]:
        return self._read(self._channels, offset, losses)

    def _read(
        self, channels: dict[str, Channel], offset: int, losses: list[Loss]
    ) -> Iterator[Message]:
        with self._reading(), Reader(self.path) as reader:
            connections = [
                each
                for each in reader.connections
                if each.topic in channels and each.msgtype == channels[each.topic].msgtype
            ]
            start = self.start + offset if offset else None
            for connection, time, data in reader.messages(connections, start):
                channel = channels[connection.topic]
                try:
                    stamp = time if channel.role in ("tf", "tf_static") else read_stamp(data)
                except ValueError as error:
                    kind = _KINDS.get(channel.role, "message")
                    where = f"{self.path}, {connection.topic} at {time} ns"
                    losses.append(Loss(kind, 1, f"{where}: {error}"))
                    continue
                yield Message(time, stamp, channel, data)

    def _frames(self, labels: bool, losses: list[Loss]) -> Iterator[Frame]:
        roles = ("image", "label") if labels else ("image",)
        channels = {
            topic: channel for topic, channel in self._channels.items() if channel.role in roles
        }
        indices: Counter[str] = Counter()
        converters: defaultdict[str, ImageConverter] = defaultdict(ImageConverter)
        for image, label in self._pairs(channels, losses):
            camera = image.channel.camera
            frame = self._frame(image, label, indices[camera], converters[camera], losses)
            indices[camera] += 1
            if frame is not None:
                yield frame

    def _pairs(
        self, channels: dict[str, Channel], losses: list[Loss]
    ) -> Iterator[tuple[Message, Message | None]]:
        """Yield each image with its label: the one of its stamp that has the same place.

        Stamps may repeat: then the first image has the first label of their stamp, and so on.
        """
        labelled = {channel.camera for channel in channels.values() if channel.role == "label"}
        images: deque[Message] = deque()
        labels: dict[tuple[str, int], deque[Message]] = defaultdict(deque)

        def label_of(image: Message) -> Message | None:
            key = image.channel.camera, image.stamp
            waiting = labels.get(key)
            label = waiting.popleft() if waiting else None
            if waiting is not None and not waiting:
                del labels[key]
            return label

        for message in self._read(channels, 0, losses):
            if message.channel.role == "image":
                images.append(message)
            else:
                labels[message.channel.camera, message.stamp].append(message)
            while images:
                camera, stamp = images[0].channel.camera, images[0].stamp
                late = message.time - images[0].time > _LABEL_WAIT
                if camera in labelled and (camera, stamp) not in labels and not late:
                    break
                yield images[0], label_of(images.popleft())
            oldest = message.time - 2 * _LABEL_WAIT
            for key in [key for key, waiting in labels.items() if waiting[0].time < oldest]:
                del labels[key]
        for image in images:
            yield image, label_of(image)

    def _frame(
        self,
        image: Message,
        label: Message | None,
        index: int,
        converter: ImageConverter,
        losses: list[Loss],
    ) -> Frame | None:
        topic = next(topic for topic, each in self._channels.items() if each == image.channel)
        where = f"{self.path}, {topic} at {image.time} ns"
        try:
            content: Any = _TYPES.deserialize_cdr(image.data, image.channel.msgtype)
            rgb = converter.to_rgb(content)
        except _UNDECODABLE as error:
            losses.append(Loss("frame", 1, f"{where}: {_line(error)}"))
            return None
        ids = None
        if label is not None:
            try:
                ids = _label_ids(_TYPES.deserialize_cdr(label.data, label.channel.msgtype))
                check_label_size(ids, rgb)
            except _UNDECODABLE as error:
                ids = None
                losses.append(Loss("label", 1, f"{where}, its label: {_line(error)}"))
        camera, frame_id = image.channel.camera, content.header.frame_id
        return Frame(image.stamp, camera, rgb, ids, frame_id, image.time, index)


_KINDS: dict[Role, LossKind] = {"image": "frame", "label": "label"}

# rosbags raises nearly anything for a message that is cut off.
_UNDECODABLE = (ImageError, SerdeError, struct.error, ValueError, IndexError, UnicodeDecodeError)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


_BESIDE_IMAGES: tuple[tuple[str, str, Role], ...] = (
    (names.LABEL, IMAGE, "label"),
    (f"{names.LABEL}/compressed", COMPRESSED_IMAGE, "label"),
    (names.CAMERA_INFO, CAMERA_INFO, "camera_info"),
)
_TRANSFORMS: tuple[tuple[str, Role], ...] = (("/tf", "tf"), ("/tf_static", "tf_static"))


def _interval(reader: Reader, topic: str, msgtype: str) -> int:
    """Return the typical time in ns from one message of a topic to the next, at its begin."""
    connections = [
        each for each in reader.connections if (each.topic, each.msgtype) == (topic, msgtype)
    ]
    times = [time for _, time, _ in islice(reader.messages(connections), 50)]
    steps = np.diff(times) if len(times) > 1 else (0,)
    return int(np.median(steps)) or 66_666_667


def _label_ids(message: Any) -> Pixels:
    """Return the ids of a mono8 image, or of one as PNG, uint8 (H, W); else raise ImageError."""
    if message.__msgtype__ == COMPRESSED_IMAGE:
        # PNG alone, as what loses detail makes up ids.
        ids = None
        if bytes(message.data[:4]) == b"\x89PNG":
            ids = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if ids is None or ids.ndim != 2 or ids.dtype != np.uint8:
            raise ImageError(
                f"label has format {message.format!r}; train ids come as PNG of one 8-bit channel"
            )
        return np.asarray(ids, np.uint8)
    if message.encoding != "mono8":
        raise ImageError(f"label has encoding {message.encoding!r}; train ids come as mono8")
    if message.step < message.width or len(message.data) < message.step * message.height:
        raise ImageError(f"label of {message.width}x{message.height} has too little data")
    size = message.height * message.step
    rows = np.frombuffer(message.data, np.uint8, size).reshape(message.height, message.step)
    return rows[:, : message.width]
