"""Bags for tests whose frames have any stamps, times of recording, contents and cameras."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.interfaces import Qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gosvae_tools.drives import COMPRESSED_IMAGE, IMAGE

TYPES = get_typestore(Stores.ROS2_JAZZY)
MESSAGES = {name.rpartition("/")[2]: each for name, each in TYPES.types.items() if "/msg/" in name}
START = 1_700_000_000_000_000_000
PERIOD = 66_666_667


class Item(NamedTuple):
    """A message to write: topic, type, when it is recorded in ns, content or serialised bytes."""

    topic: str
    msgtype: str
    time: int
    content: Any


def header(stamp: int, frame_id: str = "eye") -> Any:
    return MESSAGES["Header"](MESSAGES["Time"](*divmod(stamp, 1_000_000_000)), frame_id)


def jpeg(seed: int, size: tuple[int, int] = (60, 80)) -> bytes:
    patches = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(patches, size[::-1]))[1].tobytes()


def frame(stamp: int, time: int, seed: int = 0, camera: str = "camera", data: Any = None) -> Item:
    """Return a JPEG, or whatever is given as its data."""
    content = np.frombuffer(jpeg(seed) if data is None else data, np.uint8)
    message = MESSAGES["CompressedImage"](header(stamp), "jpeg", content)
    return Item(f"/{camera}/image_raw/compressed", COMPRESSED_IMAGE, time, message)


def label(stamp: int, time: int, value: int, camera: str = "camera") -> Item:
    pixels = np.full(60 * 80, value, np.uint8)
    message = MESSAGES["Image"](header(stamp), 60, 80, "mono8", 0, 80, pixels)
    return Item(f"/{camera}/label", IMAGE, time, message)


def transforms(stamps: Iterable[int], time: int, topic: str = "/tf") -> Item:
    turn = MESSAGES["Transform"](
        MESSAGES["Vector3"](1.0, 2.0, 3.0), MESSAGES["Quaternion"](0.0, 0.0, 0.0, 1.0)
    )
    all_ = [
        MESSAGES["TransformStamped"](header(stamp, "map"), f"child{index}", turn)
        for index, stamp in enumerate(stamps)
    ]
    return Item(topic, "tf2_msgs/msg/TFMessage", time, MESSAGES["TFMessage"](all_))


def text(time: int) -> Item:
    return Item("/note", "std_msgs/msg/String", time, MESSAGES["String"]("words"))


def write(
    path: Path,
    items: Iterable[Item],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    qos: Iterable[Qos] = (),
) -> Path:
    """Write a rosbag2 folder, the messages in the order given, and return its path."""
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, msgtype, time, content in items:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    topic, msgtype, typestore=TYPES, offered_qos_profiles=list(qos)
                )
            data = content if isinstance(content, bytes) else TYPES.serialize_cdr(content, msgtype)
            writer.write(connections[topic], time, bytes(data))
    return path
