"""Bags of rosbag2, MCAP or sqlite3, as drives."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
from rosbags.interfaces import Connection
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from gosvae_codec.errors import ImageError
from gosvae_codec.images import ImageConverter
from gosvae_common import topics as names

from .bag_labels import label_ids, pairs
from .image_topics import choose_topics
from .recording import Recording
from .source import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TF_MESSAGE,
    Channel,
    Frame,
    Loss,
    LossKind,
    Message,
    Pixels,
    Role,
    Source,
    check_label_size,
    first_line,
)
from .stamps import read_stamp
from .times import span, typical_interval

_TYPES = get_typestore(Stores.ROS2_JAZZY)

_BESIDE_IMAGES: tuple[tuple[str, str, Role], ...] = (
    (names.LABEL, IMAGE, "label"),
    (names.COMPRESSED_LABEL, COMPRESSED_IMAGE, "label"),
    (names.CAMERA_INFO, CAMERA_INFO, "camera_info"),
)
_TRANSFORMS: tuple[tuple[str, Role], ...] = (("/tf", "tf"), ("/tf_static", "tf_static"))
_KINDS: dict[Role, LossKind] = {"image": "frame", "label": "label"}

_UNDECODABLE = (ImageError, SerdeError, struct.error, ValueError, IndexError, cv2.error)
"""What a damaged message may raise; rosbags does not check lengths."""


class Bag(Source):
    """A rosbag2 folder or storage file, MCAP or sqlite3; messages are passed on unchanged."""

    def __init__(self, path: Path, cameras: Sequence[str], topics: Sequence[str]) -> None:
        self.path = path
        self.cameras = tuple(cameras)
        self._recording = Recording(path)
        self.notes = tuple(self._recording.notes)
        chosen = choose_topics(self._recording, self.cameras, topics)
        times = [time for each in chosen.values() for time in self._recording.times(each)]
        self.start, self.duration = span(times)
        first = chosen[self.cameras[0]]
        self.interval = typical_interval(self._recording.times(first))
        self._channels = dict(self._map(chosen))
        self.channels = tuple(self._channels.values())
        self._connections = {each.id: each for each in self._recording.connections}
        self.transport = {
            camera: "compressed" if each.msgtype == COMPRESSED_IMAGE else "raw"
            for camera, each in chosen.items()
        }
        missing = (self._recording.missing.get(each.id, 0) for each in chosen.values())
        self._count = len(times) + sum(missing)
        played = ", ".join(f"{each.topic} as {camera}" for camera, each in chosen.items())
        self.description = f"{path}: bag, {self._count} frames: {played}"

    def _map(self, chosen: Mapping[str, Connection]) -> Iterator[tuple[int, Channel]]:
        """Yield the bag's connections that are played, each with where it goes."""
        there = {(each.topic, each.msgtype): each.id for each in self._recording.connections}
        for camera, each in chosen.items():
            ending = "/compressed" if each.msgtype == COMPRESSED_IMAGE else ""
            yield each.id, Channel(f"{camera}/{names.IMAGE}{ending}", each.msgtype, camera, "image")
            base = each.topic.removesuffix("/compressed").rpartition("/")[0]
            for name, msgtype, role in _BESIDE_IMAGES:
                if number := there.get((f"{base}/{name}", msgtype)):
                    yield number, Channel(f"{camera}/{name}", msgtype, camera, role)
        for topic, role in _TRANSFORMS:
            if number := there.get((topic, TF_MESSAGE)):
                yield number, Channel(topic, TF_MESSAGE, "", role)

    def __len__(self) -> int:
        return self._count

    def count_repeated_stamps(self) -> int:
        """Count frames whose stamp an earlier frame of their camera has."""
        images: tuple[Role, ...] = ("image",)
        read = (message for _, message in self._read(images, 0, []))
        stamps = Counter((message.channel.camera, message.stamp) for message in read)
        return stamps.total() - len(stamps)

    def _messages(self, offset: int, losses: list[Loss]) -> Iterator[Message]:
        roles = {channel.role for channel in self.channels}
        return (message for _, message in self._read(roles, offset, losses))

    def _read(
        self, roles: Collection[Role], offset: int, losses: list[Loss]
    ) -> Iterator[tuple[str, Message]]:
        """Yield each message with its topic."""
        connections = [
            self._connections[number]
            for number, channel in self._channels.items()
            if channel.role in roles
        ]
        start = self.start + offset if offset else None
        for connection, time, data in self._recording.messages(connections, start):
            channel = self._channels[connection.id]
            try:
                stamp = time if channel.role in ("tf", "tf_static") else read_stamp(data)
            except ValueError as error:
                where = f"{self.path}, {connection.topic} at {time} ns"
                losses.append(Loss(_kind(channel), 1, f"{where}: {error}"))
                continue
            yield connection.topic, Message(time, stamp, channel, data)
        losses += self._unread(connections)

    def _unread(self, connections: Sequence[Connection]) -> Iterator[Loss]:
        """Yield what of these connections the files turned out not to give."""
        recording = self._recording
        told = False
        for connection in connections:
            kind = _kind(self._channels[connection.id])
            if count := recording.losses[connection.id]:
                reason = "; ".join(recording.damage[:1]) or "they are not where its index says"
                what = f"{count} messages of {connection.topic} cannot be read: {reason}"
                yield Loss(kind, count, f"{self.path}: {what}")
                told = True
            if count := recording.missing.get(connection.id, 0):
                said = connection.msgcount + count
                what = f"it says to have {said} messages of {connection.topic}"
                yield Loss(kind, count, f"{self.path}: {what}, {connection.msgcount} are there")
        for line in recording.damage[told:]:
            yield Loss("message", 0, line)

    def _frames(self, labels: bool, losses: list[Loss]) -> Iterator[Frame]:
        roles: tuple[Role, ...] = ("image", "label") if labels else ("image",)
        labelled = {each.camera for each in self.channels if labels and each.role == "label"}
        topics: dict[Channel, str] = {}

        def read() -> Iterator[Message]:
            for topic, message in self._read(roles, 0, losses):
                topics[message.channel] = topic
                yield message

        indices: Counter[str] = Counter()
        converters: defaultdict[str, ImageConverter] = defaultdict(ImageConverter)
        for image, label in pairs(read(), labelled):
            camera = image.channel.camera
            index = indices[camera]
            indices[camera] += 1
            where = f"{self.path}, {topics[image.channel]} at {image.time} ns"
            try:
                content = _content(image)
                rgb = converters[camera].to_rgb(content)
            except _UNDECODABLE as error:
                losses.append(Loss("frame", 1, f"{where}: {first_line(error)}"))
                continue
            ids = None if label is None else _label(label, rgb, where, losses)
            frame_id = content.header.frame_id
            yield Frame(image.stamp, camera, rgb, ids, frame_id, image.time, index)


def _kind(channel: Channel) -> LossKind:
    return _KINDS.get(channel.role, "message")


def _label(label: Message, image: Pixels, where: str, losses: list[Loss]) -> Pixels | None:
    """Return a label's ids, uint8 (H, W); None if they cannot be used, which goes to `losses`."""
    try:
        ids = label_ids(_content(label))
        check_label_size(ids, image)
    except _UNDECODABLE as error:
        losses.append(Loss("label", 1, f"{where}, its label: {first_line(error)}"))
        return None
    return ids


def _content(message: Message) -> Any:
    return _TYPES.deserialize_cdr(bytes(message.data), message.channel.msgtype)
