"""A short drive for tests: smooth pictures that move, with labels, as a rosbag2."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gosvae_codec.labels import CITYSCAPES
from gosvae_tools.drives import CAMERA_INFO, COMPRESSED_IMAGE, EPOCH, IMAGE

RATE = 15


def write_drive(path: Path, frames: int, size: tuple[int, int], camera: str = "camera") -> None:
    """Write `frames` frames of `size` (height, width) at 15 Hz: JPEG, raw labels, calibration."""
    types = get_typestore(Stores.ROS2_JAZZY)
    message = {name.rpartition("/")[2]: each for name, each in types.types.items()}
    height, width = size
    noise = np.random.default_rng(1).uniform(0, 255, (size[0] // 8, size[1] // 4, 3))
    scenery = cv2.resize(noise, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    classes = np.random.default_rng(2).choice(CITYSCAPES.ids, (size[0] // 8, size[1] // 4))
    labels = cv2.resize(classes, (2 * width, height), interpolation=cv2.INTER_NEAREST)
    matrix = np.array([width, 0, width / 2, 0, width, height / 2, 0, 0, 1.0])
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        image, label, info = (
            writer.add_connection(f"/{camera}/{name}", msgtype, typestore=types)
            for name, msgtype in (
                ("image_raw/compressed", COMPRESSED_IMAGE),
                ("label", IMAGE),
                ("camera_info", CAMERA_INFO),
            )
        )
        for index in range(frames):
            time = EPOCH + round(index * 1e9 / RATE)
            stamp = message["Time"](*divmod(time, 1_000_000_000))
            header = message["Header"](stamp, f"{camera}_optical_frame")
            seen = slice(index % width, index % width + width)
            pixels = np.clip(scenery[:, seen], 0, 255).astype(np.uint8)
            jpeg = cv2.imencode(".jpg", pixels)[1].reshape(-1)
            ids = np.ascontiguousarray(labels[:, seen]).reshape(-1)
            region = message["RegionOfInterest"](0, 0, 0, 0, False)
            turn, projection = np.eye(3).reshape(-1), np.zeros(12)
            lens = (height, width, "plumb_bob", np.zeros(5), matrix, turn, projection, 0, 0, region)
            for connection, content in (
                (info, message["CameraInfo"](header, *lens)),
                (image, message["CompressedImage"](header, "jpeg", jpeg)),
                (label, message["Image"](header, height, width, "mono8", 0, width, ids)),
            ):
                data = types.serialize_cdr(content, connection.msgtype)
                writer.write(connection, time, bytes(data))
