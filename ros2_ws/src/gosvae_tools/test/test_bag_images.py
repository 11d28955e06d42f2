"""Images in bags as cameras record them: mosaics, 10 to 14 bits, and depth that comes along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gosvae_tools.drives import open_source

TYPES = get_typestore(Stores.ROS2_JAZZY)
MESSAGE: dict[str, Any] = {name.rpartition("/")[2]: each for name, each in TYPES.types.items()}


def scene(brightness: int) -> np.ndarray:
    """A grey ramp up to `brightness` of 255, uint8 (32, 64)."""
    return np.repeat(np.linspace(0, brightness, 64)[None], 32, 0).astype(np.uint8)


def write_bag(path: Path, frames: list[np.ndarray], encoding: str, compressed: bool) -> Path:
    kind = "CompressedImage" if compressed else "Image"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = "/camera/image_raw" + ("/compressed" if compressed else "")
        connection = writer.add_connection(topic, f"sensor_msgs/msg/{kind}", typestore=TYPES)
        for index, pixels in enumerate(frames):
            header = MESSAGE["Header"](MESSAGE["Time"](50 + index, 0), "eye")
            if compressed:
                data = cv2.imencode(".png", pixels)[1].reshape(-1)
                message = MESSAGE["CompressedImage"](header, encoding, data)
            else:
                height, width = pixels.shape
                data = pixels.view(np.uint8).reshape(-1)
                step = len(data) // height
                message = MESSAGE["Image"](header, height, width, encoding, 0, step, data)
            data = TYPES.serialize_cdr(message, f"sensor_msgs/msg/{kind}")
            writer.write(connection, (50 + index) * 10**9, data)
    return path


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("encoding", ["mono16", "bayer_grbg16"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_cameras_frames_keep_one_scale(
    tmp_path: Path, encoding: str, bits: int, compressed: bool
) -> None:
    narrow = [scene(brightness) for brightness in (255, 40, 255, 9)]
    wide = [each.astype(np.uint16) << (bits - 8) for each in narrow]
    kind = f"{encoding}; png compressed " if compressed else encoding
    source = open_source(write_bag(tmp_path / "bag", wide, kind, compressed))
    for _ in range(2):
        frames = [frame.image for frame in source.frames()]
        assert len(frames) == 4
        for expected, found in zip(narrow, frames, strict=True):
            difference = np.abs(found[2:-2, 2:-2].astype(int) - expected[2:-2, 2:-2, None])
            assert difference.max() <= (0 if encoding == "mono16" else 4)
