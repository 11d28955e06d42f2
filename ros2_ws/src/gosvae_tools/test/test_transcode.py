"""Files to packets to masks, and what `gosvae inspect` tells of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from drives import write_drive
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2.storage_mcap import McapWriter
from sensor_msgs.msg import Image

from gosvae_bringup import cli
from gosvae_codec import (
    BundleError,
    Decoder,
    Encoder,
    ModelBundle,
    PacketError,
)
from gosvae_codec.keys import KeyFile
from gosvae_codec.sealing import PacketSealer
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.messages import from_packet_message, to_packet_message
from gosvae_msgs.msg import LabelInfo, TokenPacket
from gosvae_tools.bag_writer import BagWriteError, BagWriter
from gosvae_tools.bags import packets, reading
from gosvae_tools.drives import SourceError, open_source
from gosvae_tools.inspect import inspect

FRAMES = 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return ModelBundle.load(write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "street"
    write_drive(path, FRAMES, (120, 160))
    return path


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, drive: Path, bundle: ModelBundle) -> Path:
    path = tmp_path_factory.mktemp("encoded") / "packets.mcap"
    assert gosvae("encode", drive, "-o", path, "--bundle", bundle.path) == 0
    return path


def gosvae(*arguments: object) -> int:
    return cli.main([str(each) for each in arguments])


def read(path: Path) -> list[TokenPacket]:
    with reading(path) as reader:
        return [each.message for each in packets(reader)]


def rewrite(source: Path, output: Path, keep: Any) -> None:
    """Write those packets of a bag for which `keep` returns one, by index."""
    with reading(source) as reader, BagWriter(output) as writer:
        for index, (camera, time, message, _) in enumerate(packets(reader)):
            if (kept := keep(index, message)) is not None:
                writer.write(f"/{camera}/image_raw/gosvae", time, kept)


def expected_masks(drive: Path, bundle: ModelBundle) -> dict[int, np.ndarray]:
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    return {
        frame.stamp: decoder.decode(encoder.encode(frame.image)).mask
        for frame in open_source(drive).frames()
    }


def name_of(stamp: int) -> str:
    return "{}.{:09d}.png".format(*divmod(stamp, 1_000_000_000))


def test_what_is_encoded_decodes_to_the_librarys_masks(
    drive: Path, bundle: ModelBundle, encoded: Path, tmp_path: Path
) -> None:
    made = read(encoded)
    assert {each.header.frame_id for each in made} == {"camera_optical_frame"}
    # 15 Hz, an intra frame a second, all others predicted.
    assert [each.sequence for each in made if each.reference == 0] == [0, 15]
    output = tmp_path / "masks"
    assert gosvae("decode", encoded, "-o", output, "--bundle", bundle.path) == 0
    expected = expected_masks(drive, bundle)
    assert sorted(file.name for file in output.iterdir()) == sorted(map(name_of, expected))
    for stamp, mask in expected.items():
        found = cv2.imread(str(output / name_of(stamp)), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, mask)


def test_masks_go_to_a_bag_as_well(
    drive: Path, bundle: ModelBundle, encoded: Path, tmp_path: Path
) -> None:
    output = tmp_path / "masks.mcap"
    assert gosvae("decode", encoded, "-o", output, "--bundle", bundle.path, "--color") == 0
    assert [each.name for each in tmp_path.iterdir()] == ["masks.mcap"]
    expected = expected_masks(drive, bundle)
    with reading(output) as reader:
        found = {each.topic: each for each in reader.connections}
        assert found["/camera/semantic/color"].msgcount == FRAMES
        for connection, _, data in reader.messages([found["/camera/semantic/color"]]):
            assert connection.msgtype == "sensor_msgs/msg/Image"
            image = deserialize_message(bytes(data), Image)
            pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
            stamp = image.header.stamp.sec * 1_000_000_000 + image.header.stamp.nanosec
            np.testing.assert_array_equal(pixels, bundle.labels.palette[expected[stamp]])
        ((_, _, data),) = reader.messages([found["/camera/semantic/label_info"]])
    assert deserialize_message(bytes(data), LabelInfo).fingerprint == bundle.fingerprint


def test_sealed_recordings_are_decoded_with_their_key(
    encoded: Path, bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file, other = tmp_path / "vehicle.key", tmp_path / "other.key"
    assert gosvae("keygen", key_file, "--name", "vehicle 7") == 0
    assert gosvae("keygen", other) == 0
    assert gosvae("keygen", key_file) == 1 and "exists already" in capsys.readouterr().err
    assert gosvae("keygen", tmp_path / "none", "--add") == 1
    assert "does not exist" in capsys.readouterr().err
    assert key_file.stat().st_mode & 0o777 == 0o600
    sealer = PacketSealer(KeyFile(key_file))
    sealed = tmp_path / "sealed.mcap"

    def seal(index: int, message: TokenPacket) -> TokenPacket:
        packet = from_packet_message(message)
        # As where a bag was recorded across the day on which sealing was switched on.
        return to_packet_message(sealer.seal(packet)) if index >= 5 else message

    rewrite(encoded, sealed, seal)
    # The key was replaced since.
    assert gosvae("keygen", key_file, "--add") == 0 and len(KeyFile(key_file).keys) == 2
    arguments = ("decode", sealed, "--bundle", bundle.path)
    output = tmp_path / "masks"
    assert gosvae(*arguments, "-o", output, "--key-file", key_file) == 0
    assert gosvae("decode", encoded, "--bundle", bundle.path, "-o", tmp_path / "plain") == 0
    files = sorted(path.name for path in output.iterdir())
    assert len(files) == FRAMES
    for name in files:
        assert (output / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    capsys.readouterr()
    for options, problem in (
        ((), "packets are sealed, but no key file"),
        (("--key-file", other), "packets sealed with key"),
    ):
        assert gosvae(*arguments, "-o", tmp_path / "no", *options) == 1
        assert problem in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert gosvae("inspect", sealed) == 0


def test_losses_are_counted(
    bundle: ModelBundle, encoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without frame 3 there is no reference for frame 4, and so on until the next intra frame, 15.
    rewrite(encoded, tmp_path / "lossy.mcap", lambda index, each: None if index == 3 else each)
    arguments = ("-o", tmp_path / "masks", "--bundle", bundle.path, "--json")
    assert gosvae("decode", tmp_path / "lossy.mcap", *arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["decoded"], figures["frames_without_reference"]) == (FRAMES - 12, 11)
    assert (figures["packets"], figures["packets_lost"]) == (FRAMES - 1, 1)
    values = inspect(tmp_path / "lossy.mcap").values["cameras"]["camera"]
    assert values["loss"] == round(1 / FRAMES, 4)


def test_damaged_packets_are_counted(
    bundle: ModelBundle, encoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(index: int, message: TokenPacket) -> TokenPacket:
        if index == 2:
            message.payload[0] ^= 1
        return message

    rewrite(encoded, tmp_path / "spoilt.mcap", spoil)
    assert inspect(tmp_path / "spoilt.mcap").values["cameras"]["camera"]["damaged"] == 1
    arguments = ("-o", tmp_path / "masks", "--bundle", bundle.path, "--json")
    assert gosvae("decode", tmp_path / "spoilt.mcap", *arguments) == 0
    assert json.loads(capsys.readouterr().out)["packets_rejected"] == 1


def test_packets_of_another_bundle_are_refused(
    encoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_tiny_bundle(tmp_path / "other", seed=7)
    assert gosvae("decode", encoded, "-o", tmp_path / "masks", "--bundle", other) == 1
    assert "give transmitter and receiver the same bundle folder" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["experts", "other"]


def test_a_budget_is_kept(
    drive: Path, bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "packets"
    options = ("--bundle", bundle.path, "--max-kbit-per-s", 10, "--json")
    assert gosvae("encode", drive, "-o", path, *options) == 0
    figures = json.loads(capsys.readouterr().out)
    assert 0 < figures["skipped"] < FRAMES == figures["frames"]
    assert figures["kbit_per_s"] <= 10
    assert (path / "metadata.yaml").is_file()
    assert len(read(path)) == figures["packets"]


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["encode", "nowhere", "-o", "x.mcap"], 1, "input nowhere does not exist"),
        (["encode", "{drive}", "-o", "{encoded}"], 1, "exists already; remove it or name another"),
        (["encode", "{drive}", "-o", "/no/where.mcap"], 1, "/no is not a folder"),
        (["encode", "{drive}", "-o", "x.mcap", "--slices", "0"], 2, "slices is 0: give 1 to 64"),
        (["encode", "{drive}", "-o", "x.mcap", "--levels", "9"], 2, "tiny has 1 to 2"),
        (["encode", "{drive}", "-o", "x.mcap", "--max-kbit-per-s", "1"], 1, "raise it"),
        (
            ["decode", "{drive}", "-o", "x"],
            1,
            "has no packets, its topics are: /camera/camera_info",
        ),
        (["decode", "nowhere.mcap", "-o", "x"], 1, "nowhere.mcap does not exist"),
        (["inspect", "nowhere"], 1, "nowhere does not exist"),
        (["inspect", "{folder}"], 1, "has no .mcap or .db3 files"),
    ],
)
def test_mistakes_take_one_line_and_leave_nothing(
    arguments: list[str],
    status: int,
    reason: str,
    drive: Path,
    encoded: Path,
    bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GOSVAE_BUNDLE", str(bundle.path))
    monkeypatch.chdir(tmp_path)
    places = {"drive": drive, "encoded": encoded, "folder": bundle.path.parent}
    filled = [each.format(**places) for each in arguments]
    assert gosvae(*filled) == status
    err = capsys.readouterr().err
    assert reason in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert len(read(encoded)) == FRAMES


def test_frames_that_show_nothing_are_told(
    bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    for index, values in enumerate((noise, noise // 40, np.full_like(noise, 90), noise)):
        assert cv2.imwrite(str(folder / f"{index}.png"), values)
    output = tmp_path / "packets.mcap"
    assert gosvae("encode", folder, "-o", output, "--bundle", bundle.path) == 0
    assert "2 of 4 frames are nearly black or nearly constant" in capsys.readouterr().err


def test_a_damaged_bag_without_packets_says_both(
    drive: Path,
    bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GOSVAE_BUNDLE", str(bundle.path))
    cut = tmp_path / "cut.mcap"
    file = drive if drive.is_file() else next(drive.glob("*.mcap"))
    cut.write_bytes(file.read_bytes()[: -(file.stat().st_size // 2)])
    assert gosvae("decode", str(cut), "-o", str(tmp_path / "masks")) == 1
    err = capsys.readouterr().err
    assert "has no packets" in err and err.count("\n") == 1
    assert f"record:=; {cut} was cut off" in err


def test_a_bag_that_lacks_messages_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = McapWriter.write

    def lose(storage: McapWriter, connection: Any, time: int, data: bytes) -> None:
        if time != 2:
            write(storage, connection, time, data)

    monkeypatch.setattr(McapWriter, "write", lose)
    with (
        pytest.raises(BagWriteError, match=r"3 messages of /labels were written, .* holds 2"),
        BagWriter(tmp_path / "bag") as writer,
    ):
        for time in (1, 2, 3):
            writer.write("/labels", time, LabelInfo())


def test_a_bag_is_summed_up(encoded: Path, bundle: ModelBundle) -> None:
    found = inspect(encoded, each_packet=True)
    values = found.values["cameras"]["camera"]
    assert values["bundles"] == [f"{bundle.fingerprint:016x}"]
    assert (values["frames"], values["intra"], values["predicted"]) == (FRAMES, 2, FRAMES - 2)
    assert (values["levels"], values["loss"], values["damaged"]) == (2.0, 0.0, 0)
    assert values["frames_per_s"] == pytest.approx(15, rel=1e-3)
    assert values["frame_sizes"] == ["160x120"]
    sizes = [len(serialize_message(each)) for each in read(encoded)]
    assert values["bytes_per_frame"] == round(float(np.mean(sizes)), 1)
    assert values["kbit_per_s"] == pytest.approx(np.mean(sizes) * 8 * 15 / 1000, rel=1e-3)
    assert [each["bytes"] for each in found.values["packets"]] == sizes
    assert [each["what"] for each in found.values["packets"][:3]] == [
        *("intra", "predicted, 1 back", "predicted, 1 back")
    ]
    assert found.values["topics"] == [
        {
            "topic": "/camera/image_raw/gosvae",
            "type": "gosvae_msgs/msg/TokenPacket",
            "messages": FRAMES,
        }
    ]


def test_a_bundle_is_summed_up(bundle: ModelBundle, tmp_path: Path) -> None:
    values = inspect(bundle.path).values
    assert values["fingerprint"] == f"{bundle.fingerprint:016x}"
    assert values["bytes_at_fixed_length"] == [18, 36]
    assert values["tasks"]["semantic"]["labels"][0] == "road"
    assert values["files"]["features.onnx"] == (bundle.path / "features.onnx").stat().st_size
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    (copy / "features.onnx").write_bytes(b"half")
    with pytest.raises(BundleError, match="copy the bundle again"):
        inspect(copy)


def test_a_packet_is_summed_up(encoded: Path, tmp_path: Path) -> None:
    packet = read(encoded)[1]
    file = tmp_path / "packet.cdr"
    file.write_bytes(serialize_message(packet))
    values = inspect(file).values
    assert (values["what"], values["sequence"]) == ("predicted, 1 back", 1)
    assert values["bytes"] == file.stat().st_size
    packet.payload[0] ^= 1
    file.write_bytes(serialize_message(packet))
    with pytest.raises(PacketError, match="not an intact packet"):
        inspect(file)
    file.write_bytes(b"no packet at all")
    with pytest.raises((SourceError, PacketError), match="packet"):
        inspect(file)
