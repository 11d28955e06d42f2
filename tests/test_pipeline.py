"""From a bag to a bag: `gosvae run` plays a drive, and every mask is the one the library gives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_prefix
from drives import write_drive
from harness import DEADLINE, DOMAINS
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gosvae_codec import Decoder, Encoder, ModelBundle
from gosvae_tools.drives import open_source
from gosvae_tools.drives.stamps import read_stamp

GOSVAE = Path(get_package_prefix("gosvae_bringup")) / "lib" / "gosvae_bringup" / "gosvae"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "street"
    write_drive(path, 30, (120, 160))
    return path


def gosvae(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next(DOMAINS))}
    command = [str(GOSVAE), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=4 * DEADLINE, check=False
    )


@pytest.fixture(scope="module")
def recording(drive: Path, bundle: ModelBundle) -> Path:
    path = drive.parent / "recording"
    done = gosvae("run", f"bag:={drive}", "--bundle", bundle.path, "--record", path)
    assert done.returncode == 0, done.stderr
    return path


def test_a_bag_becomes_a_bag_of_the_librarys_masks(
    drive: Path, bundle: ModelBundle, recording: Path
) -> None:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    expected = {
        frame.stamp: decoder.decode(encoder.encode(frame.image)).mask
        for frame in open_source(drive).frames()
    }
    types = get_typestore(Stores.ROS2_JAZZY)
    masks = {}
    packets: dict[int, list[bytes]] = {}
    with AnyReader([recording], default_typestore=types) as reader:
        for connection, _, data in reader.messages():
            if connection.topic == "/camera/semantic/mask":
                message = reader.deserialize(data, connection.msgtype)
                assert message.header.frame_id == "camera_optical_frame"
                pixels = message.data.reshape(message.height, message.width)
                assert read_stamp(data) not in masks
                masks[read_stamp(data)] = pixels
            elif connection.topic == "/camera/image_raw/gosvae":
                packets.setdefault(read_stamp(data), []).append(data)
        topics = {connection.topic for connection in reader.connections}
    assert list(masks) == sorted(expected)
    for stamp, mask in masks.items():
        np.testing.assert_array_equal(mask, expected[stamp])
    assert set(packets) == set(expected)
    assert max(len(data) for some in packets.values() for data in some) <= 1400
    assert {"/camera/label", "/camera/semantic/label_info", "/diagnostics"} <= topics


def test_the_recording_is_readable_with_its_own_definitions(
    bundle: ModelBundle, recording: Path
) -> None:
    with AnyReader([recording]) as reader:
        connection = next(c for c in reader.connections if c.topic == "/camera/image_raw/gosvae")
        types = get_typestore(Stores.ROS2_JAZZY)
        types.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        _, _, data = next(reader.messages([connection]))
    message = types.deserialize_cdr(data, connection.msgtype)
    assert message.fingerprint == bundle.fingerprint
    assert (message.source_width, message.source_height) == (160, 120)


@pytest.mark.slow
def test_the_demo_reports_what_it_did(drive: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    figures, output = tmp_path / "figures.json", tmp_path / "demo"
    done = gosvae(
        "demo", "--input", drive, "--bundle", bundle.path, "--json", figures, "--output", output
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    assert report["frames_sent"] == report["masks_received"] == report["packets"] == 30
    assert 60 < report["bytes_per_frame"] < 200
    sent = json.loads((output / "replay.json").read_text())["cameras"]["camera"]["frames"]
    frames_per_s = 29 / (sent[-1]["wall"] - sent[0]["wall"]) * 1e9
    # A busy machine sends later than the drive has it, none sends sooner.
    assert frames_per_s < 15 * 1.1
    rate = report["bytes_per_frame"] * 8 * frames_per_s / 1000
    assert report["kbit_per_s"] == pytest.approx(rate, rel=0.01)
    assert 0 < report["mask_age_ms"]["p50"] <= report["mask_age_ms"]["p95"]
    for name in ("miou", "expert_miou", "agreement"):
        assert 0 <= report[name] <= 1
    for path in report["outputs"].values():
        assert Path(path).exists()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["run", "--bag", "nowhere.mcap"], 2, "nowhere.mcap does not exist"),
        (["run", "--bundle", "nowhere"], 2, "nowhere does not exist"),
        (["run", "--rate", "0", "--bag", "."], 2, "rate is '0'; give a number from 0.01 to 100"),
        (["run", "speed:=2"], 2, "--speed=2"),
        (["fly"], 2, "invalid choice"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], status: int, reason: str) -> None:
    done = gosvae(*arguments)
    assert done.returncode == status
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
