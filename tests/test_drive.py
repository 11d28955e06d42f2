"""The drive that ships."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from gosvae_codec.labels import CITYSCAPES, UNLABELLED
from gosvae_common.shipped import find_drive
from gosvae_tools.drives import open_source

ROOT = Path(__file__).resolve().parents[1]
DRIVE = ROOT / "drives" / "street.mcap"


def test_it_is_the_one_described() -> None:
    assert DRIVE.stat().st_size <= 10_000_000
    digest = hashlib.sha256(DRIVE.read_bytes()).hexdigest()
    assert digest in (ROOT / "drives" / "README.md").read_text()
    assert find_drive().samefile(DRIVE)


def test_messages_come_at_a_steady_rate_and_belong_together() -> None:
    stamps: dict[str, list[int]] = {}
    with AnyReader([DRIVE]) as reader:
        for connection, time, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            header = message.transforms[0].header if "tf" in connection.topic else message.header
            assert time == header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            stamps.setdefault(connection.topic, []).append(time)
            if connection.topic == "/camera/camera_info":
                assert (message.width, message.height) == (1024, 512)
    assert len(stamps.pop("/tf_static")) == 1
    names = ("image_raw/compressed", "label/compressed", "camera_info")
    assert set(stamps) == {*(f"/camera/{name}" for name in names), "/tf"}
    first = stamps["/tf"]
    assert all(each == first for each in stamps.values())
    assert 80 <= len(first) <= 120
    assert set(np.diff(first).tolist()) == {100_000_000}


def test_every_frame_has_labels_that_fit() -> None:
    source = open_source(DRIVE)
    frames = list(source.frames())
    assert len(source) == len(frames)
    assert source.transport == {"camera": "compressed"}
    seen = np.zeros(256, int)
    for frame in frames:
        assert frame.image.shape == (512, 1024, 3)
        assert frame.label is not None and frame.label.shape == (512, 1024)
        seen += np.bincount(frame.label.reshape(-1), minlength=256)
        assert cv2.Laplacian(frame.image, cv2.CV_64F).var() > 50, "a picture, not a blank"
    ids = set(np.flatnonzero(seen).tolist())
    assert ids <= {*CITYSCAPES.ids.tolist(), UNLABELLED}
    names = {label.name for label in CITYSCAPES.labels if label.id in ids}
    assert names >= {
        *("road", "sidewalk", "building", "pole", "traffic light", "traffic sign"),
        *("vegetation", "sky", "person", "rider", "car", "bicycle"),
    }
    assert seen[UNLABELLED] / seen.sum() < 0.01


def test_the_camera_drives_on() -> None:
    places = []
    with AnyReader([DRIVE]) as reader:
        connections = [each for each in reader.connections if each.topic == "/tf"]
        for connection, _, data in reader.messages(connections):
            (transform,) = reader.deserialize(data, connection.msgtype).transforms
            assert (transform.header.frame_id, transform.child_frame_id) == ("map", "base_link")
            move = transform.transform.translation
            places.append((move.x, move.y, move.z))
    speed = np.linalg.norm(np.diff(np.array(places), axis=0), axis=1) * 10
    assert speed.min() > 4 and speed.max() < 14
    assert pytest.approx(np.median(speed), abs=1.0) == speed.mean()
