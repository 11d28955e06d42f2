"""The demo: its figures from made-up recordings, its pictures, and one whole run over DDS."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from rich.progress import Progress
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gosvae_bringup.demo.delivery import Delivery, Masks, Usage
from gosvae_bringup.demo.judge import Counts, Quality
from gosvae_bringup.demo.pictures import Found, Video, contact_sheet, legend, panels
from gosvae_bringup.demo.report import figures, problems
from gosvae_bringup.pipeline import Node, Pipeline
from gosvae_bringup.processes import Ended
from gosvae_codec.labels import CAMVID, CITYSCAPES, Label, LabelSpace
from gosvae_common.boxes import Box
from gosvae_common.errors import UsageError
from gosvae_common.fastdds import PROFILE_VARIABLE
from gosvae_tools.drives import EPOCH, Frame, SourceError
from gosvae_tools.link.emulator import unavailable

MESSAGES = Path(__file__).resolve().parents[2] / "ros2_ws" / "src" / "gosvae_msgs" / "msg"

SECOND = 1_000_000_000
SIZE = (48, 72)
HEADER, TIME = "std_msgs/msg/Header", "builtin_interfaces/msg/Time"
START = 1_700_000_000 * SECOND
KEYS = [
    *("frames_read", "damaged", "frames_sent", "packets", "masks_received", "frames_scored"),
    *("bytes_per_frame", "kbit_per_s", "mask_age_ms"),
    *("longest_gap_ms", "coverage", "loss", "link_kbit_per_s", "link_loss"),
    *("miou", "expert_miou", "classes_compared", "agreement", "outputs"),
]


def mask_of(index: int) -> np.ndarray:
    return np.full(SIZE, index, np.uint8)


def stamp_of(index: int) -> int:
    """What the replay gives the frames of a folder."""
    return EPOCH + round(index * SECOND / 15)


def delivery(
    folder: Path,
    masks: list[int],
    stamp_of: Callable[[int], int] = stamp_of,
    feedback: list[tuple[int, int, int, float]] | None = None,
    shift: int = 0,
    found: Sequence[int] = (),
) -> Delivery:
    """Return ten frames sent at 10 Hz, two packets of 100 bytes each, and masks of some of them.

    The mask of frame i holds i, and comes after 20 + i ms, or right after the one before it in
    `masks` if that is later. Feedback is ms after the start, packets received and lost, coverage.
    What was sent bears stamps that are `shift` ns later than the drive's. A car is found in the
    frames `found`.
    """
    walls = [START + i * SECOND // 10 for i in range(20)]
    frames = [
        {"stamp": stamp_of(i) + shift, "recorded": stamp_of(i), "wall": walls[i]} for i in range(10)
    ]
    report = folder / "replay.json"
    report.write_text(json.dumps({"cameras": {"camera": {"transport": "raw", "frames": frames}}}))
    types = get_typestore(Stores.ROS2_JAZZY)
    # Only its header is ever looked at.
    types.register(get_types_from_msg("std_msgs/Header header\nuint8[] payload", "x/msg/Packet"))
    fields = "uint32 packets_received\nuint32 packets_lost\nfloat32 coverage"
    types.register(get_types_from_msg(fields, "x/msg/Feedback"))
    for name in ("Detection", "Detections"):
        text = (MESSAGES / f"{name}.msg").read_text()
        types.register(get_types_from_msg(text, f"gosvae_msgs/msg/{name}"))
    message = {name.rpartition("/")[2]: each for name, each in types.types.items()}

    def header(index: int) -> Any:
        return message["Header"](message["Time"](*divmod(stamp_of(index) + shift, SECOND)), "c")

    def packet(index: int, size: int) -> bytes:
        content = message["Packet"](header(index), np.zeros(size, np.uint8))
        return bytes(types.serialize_cdr(content, "x/msg/Packet"))

    def mask(index: int) -> bytes:
        pixels = mask_of(index).reshape(-1)
        image = message["Image"](header(index), *SIZE, "mono8", 0, SIZE[1], pixels)
        return bytes(types.serialize_cdr(image, "sensor_msgs/msg/Image"))

    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        packets, images, said, boxes = (
            writer.add_connection(f"/camera/{topic}", msgtype, typestore=types)
            for topic, msgtype in (
                ("image_raw/gosvae", "x/msg/Packet"),
                ("semantic/mask", "sensor_msgs/msg/Image"),
                ("image_raw/gosvae/feedback", "x/msg/Feedback"),
                ("detections", "gosvae_msgs/msg/Detections"),
            )
        )
        payload = 100 - len(packet(0, 0))
        for i in range(10):
            writer.write(packets, walls[i], packet(i, payload))
            writer.write(packets, walls[i] + 1, packet(i, payload))
        time = 0
        for i in masks:
            time = max(time + 1, walls[i] + (20 + i) * 1_000_000)
            writer.write(images, time, mask(i))
        for i in found:
            box = message["Detection"]("car", 0, 0.5, 1.0, 2.0, 30.0, 40.0)
            content = message["Detections"](header(i), [box])
            data = types.serialize_cdr(content, "gosvae_msgs/msg/Detections")
            writer.write(boxes, walls[i], bytes(data))
        for at, *values in feedback or []:
            content = types.serialize_cdr(message["Feedback"](*values), "x/msg/Feedback")
            writer.write(said, START + at * 1_000_000, bytes(content))
    return Delivery.read(report, [folder / "bag"], "camera")


def test_figures_of_a_perfect_run(tmp_path: Path) -> None:
    result = figures(
        delivery(tmp_path, list(range(10))), Quality(CITYSCAPES), Counts(10), {"bag": "there"}
    )
    assert list(result) == KEYS
    assert result["frames_sent"] == result["masks_received"] == 10
    assert result["packets"] == 20
    assert result["bytes_per_frame"] == 200
    assert result["kbit_per_s"] == 200 * 8 * 10 / 1000
    assert result["mask_age_ms"] == {"p50": 24.5, "p95": pytest.approx(28.55)}
    assert result["miou"] is result["expert_miou"] is result["agreement"] is None
    assert result["longest_gap_ms"] == 101
    assert result["coverage"] is result["loss"] is result["link_loss"] is None


def test_figures_of_a_bad_link(tmp_path: Path) -> None:
    said = [(10, 0, 0, 0.0), (100, 2, 0, 1.0), (500, 6, 2, 0.5), (1500, 12, 4, 0.2)]
    usage = {"from_vehicle": Usage(120.123, 0.25)}
    recorded = delivery(tmp_path, [0, 1, 5], feedback=said, shift=10 * SECOND)
    result = figures(recorded, Quality(CITYSCAPES), Counts(), {}, usage)
    assert (result["masks_received"], result["packets"]) == (3, 20)
    # The mask of frame 5 comes at 525 ms, and the last frame is sent at 900 ms.
    assert result["longest_gap_ms"] == 525 - 121
    assert result["coverage"] == 0.75
    assert result["loss"] == 0.25
    assert result["link_kbit_per_s"] == {"from_vehicle": 120.12}
    assert result["link_loss"] == {"from_vehicle": 0.25}
    assert Masks(recorded).take(stamp_of(5)) is not None


def test_missing_repeated_and_foreign_masks_are_told_apart(tmp_path: Path) -> None:
    result = delivery(tmp_path, [0, 1, 1, 3, 12])
    assert result.frames_sent == 10
    assert result.masks_received == 3
    assert list(result.mask_ages_ms.values()) == [20, 21, 23]
    reports = dict(result.frames())
    assert len(reports) == 10
    assert np.isnan(reports[stamp_of(2)].mask_age_ms)


def test_figures_without_any_mask(tmp_path: Path) -> None:
    result = figures(delivery(tmp_path, []), Quality(CITYSCAPES), Counts(), {})
    assert result["masks_received"] == 0
    assert result["longest_gap_ms"] == 900
    assert result["mask_age_ms"] == {"p50": None, "p95": None}


@pytest.mark.parametrize(
    ("scored", "counts", "lossy", "said"),
    [
        (10, Counts(10), False, []),
        (9, Counts(9, 1, 0, 1), False, []),
        (10, Counts(10, 1), False, []),
        (10, Counts(12, 0, 2), False, ["2 of 12 frames were read but not sent"]),
        (8, Counts(10), False, ["2 of 10 masks are missing"]),
        (8, Counts(10), True, []),
        (0, Counts(10), True, ["10 of 10 masks are missing"]),
        (7, Counts(9, 1, 0, 1), False, ["2 of 9 masks are missing"]),
        (9, Counts(9, 0, 0, 1), True, ["1 of 10 frames that were sent do not decode, but 0 when"]),
    ],
)
def test_counts_of_frames_are_compared(
    scored: int, counts: Counts, lossy: bool, said: list[str], tmp_path: Path
) -> None:
    quality = Quality(CITYSCAPES)
    quality.frames = scored
    found = list(problems(delivery(tmp_path, list(range(10))), quality, counts, lossy))
    assert len(found) == len(said)
    assert all(each.startswith(start) for each, start in zip(found, said, strict=True))


def test_masks_are_found_by_stamp_whatever_their_order(tmp_path: Path) -> None:
    masks = Masks(delivery(tmp_path, [1, 0, 2, 5, 4, 7]))
    taken = [masks.take(stamp_of(i)) for i in range(10)]
    assert [None if each is None else int(each[0, 0]) for each in taken] == [
        *(0, 1, 2, None, 4, 5, None, 7, None, None)
    ]
    assert taken[0] is not None
    assert taken[0].shape == SIZE


def test_masks_are_found_after_stamps_went_back(tmp_path: Path) -> None:
    stamps = [stamp_of(i) for i in (*range(5, 10), *range(5))]
    result = delivery(tmp_path, [0, 1, 3, 4, 5, 6, 8, 9], lambda i: stamps[i])
    masks = Masks(result)
    taken = [masks.take(stamp) for stamp in result.sent]
    assert [None if each is None else int(each[0, 0]) for each in taken] == [
        *(0, 1, None, 3, 4, 5, 6, None, 8, 9)
    ]


def test_quality_counts_labels_and_expert() -> None:
    quality = Quality(CITYSCAPES)
    truth, mask = mask_of(0), mask_of(0)
    truth[: SIZE[0] // 2] = 1
    image = np.zeros((*SIZE, 3), np.uint8)
    quality.add(Frame(1, "camera", image, None), mask, mask)
    assert quality.agreement == 1
    assert quality.miou is quality.expert_miou is None
    quality.add(Frame(2, "camera", image, truth), mask, truth)
    assert quality.miou == pytest.approx(0.25)
    assert quality.expert_miou == 1
    assert (quality.frames, quality.labelled) == (2, 1)


def test_quality_leaves_out_what_the_networks_do_not_know() -> None:
    quality = Quality(CAMVID)
    truth, mask = mask_of(0), mask_of(0)
    truth[:2] = CITYSCAPES.by_name("train").id
    quality.add(Frame(1, "camera", np.zeros((*SIZE, 3), np.uint8), truth), mask, mask)
    assert quality.miou == quality.expert_miou == 1


def test_quality_matches_classes_by_name_and_says_which() -> None:
    own = LabelSpace(
        "yard",
        (Label(0, "sky", (0, 0, 9)), Label(4, "road", (9, 0, 0)), Label(5, "pit", (0, 9, 0))),
    )
    truth, mask = mask_of(4), mask_of(CITYSCAPES.by_name("road").id)
    truth[:2], mask[:2] = 0, CITYSCAPES.by_name("sky").id
    truth[2:4] = 5
    quality = Quality(CITYSCAPES, own)
    quality.add(Frame(1, "camera", np.zeros((*SIZE, 3), np.uint8), truth), mask, mask)
    assert quality.miou == quality.expert_miou == 1
    assert quality.compared == ["road", "sky"]


@pytest.mark.parametrize("size", [(37, 50), (360, 480), (1080, 1920)])
def test_the_video_plays_anywhere(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    path = tmp_path / "v.mp4"
    with Video(path, CAMVID, "title", Fraction(15)) as video:
        video.add(image, np.full(size, 13, np.uint8), "caption")
        video.add(image, None, "caption")
        video.add(np.zeros((20, 50, 3), np.uint8), None, "wider")
        video.add(np.zeros((50, 20, 3), np.uint8), np.zeros((50, 20), np.uint8), "higher")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 15)
        assert stream.width == 1920
        assert stream.height % 2 == 0
        assert len(list(container.decode(video=0))) == 4
    # For players that begin before the end of the file has come.
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_panels_show_camera_colours_and_both() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.full((40, 60), 255, np.uint8)
    mask[:, 30:] = 13
    result = panels(image, mask, CITYSCAPES, 60)
    np.testing.assert_array_equal(result.camera, image)
    assert result.mask[20, 40].tolist() == [0, 0, 142]
    assert result.overlay[20, 10].tolist() == [100, 100, 100]
    assert result.overlay[20, 40].tolist() == [45, 45, 123]


def test_boxes_are_drawn_on_the_overlay_alone() -> None:
    image, mask = np.full((80, 120, 3), 100, np.uint8), np.full((80, 120), 255, np.uint8)
    labels = LabelSpace("objects", (Label(0, "car", (0, 0, 142)),))
    found = Found([Box("car", 0.5, 20.0, 40.0, 100.0, 70.0)], labels)
    result, without = (panels(image, mask, CITYSCAPES, 60, each) for each in (found, None))
    assert result.overlay[35, 30].tolist() == [0, 0, 142]
    np.testing.assert_array_equal(result.camera, without.camera)
    np.testing.assert_array_equal(result.mask, without.mask)


def test_recorded_boxes_are_those_of_their_frames(tmp_path: Path) -> None:
    drive = delivery(tmp_path, list(range(10)), shift=3, found=[2, 5])
    assert dict(drive.boxes) == {
        stamp_of(i): [Box("car", 0.5, 1.0, 2.0, 30.0, 40.0)] for i in (2, 5)
    }


def test_the_sheet_has_a_legend_of_all_labels() -> None:
    frames = [
        (str(i), panels(np.zeros((30, 40, 3), np.uint8), None, CAMVID, 200)) for i in range(8)
    ]
    sheet = contact_sheet(frames, CITYSCAPES, "title")
    below = legend(CITYSCAPES, sheet.shape[1])
    np.testing.assert_array_equal(sheet[-len(below) :], below)
    for label in CITYSCAPES.labels:
        assert (below == label.color).all(-1).sum() > 200


def test_the_sheet_takes_frames_of_any_shape() -> None:
    shapes = [(30, 40), (60, 40), (1, 400)]
    frames = [
        ("", panels(np.full((*shape, 3), 200, np.uint8), None, CAMVID, 40)) for shape in shapes
    ]
    assert [pictures.camera.shape[0] for _, pictures in frames] == [30, 60, 2]
    contact_sheet(frames, CAMVID, "title")


def demo(*arguments: str | Path) -> subprocess.Popen[str]:
    command = "import sys; from gosvae_bringup.cli import main; sys.exit(main())"
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    return subprocess.Popen(
        [sys.executable, "-c", command, "demo", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from gosvae_codec.testing import write_tiny_bundle

    return write_tiny_bundle(tmp_path / "models" / "tiny")


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A labelled drive of 15 frames in CamVid's layout."""
    folder, labels = tmp_path / "drive", tmp_path / "driveannot"
    folder.mkdir()
    labels.mkdir()
    for i in range(15):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((*SIZE, 3), 16 * i, np.uint8))
        cv2.imwrite(str(labels / f"{i}.png"), np.full(SIZE, i % 11, np.uint8))
    return folder


@pytest.mark.dds
@pytest.mark.slow
def test_a_drive_crosses_whole(tmp_path: Path, bundle: Path, drive: Path) -> None:
    output, figures_file = tmp_path / "out", tmp_path / "figures.json"
    process = demo(
        *("--input", drive, "--bundle", bundle, "--output", output, "--json", figures_file)
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    result = json.loads(figures_file.read_text())
    assert list(result) == KEYS
    sent = json.loads((output / "replay.json").read_text())["cameras"]["camera"]["frames"]
    assert result["frames_sent"] == result["masks_received"] == len(sent) == 15
    assert result["packets"] >= 15
    seconds = (sent[-1]["wall"] - sent[0]["wall"]) / 1e9
    rate = result["bytes_per_frame"] * 8 / 1000 * 14 / seconds
    assert result["kbit_per_s"] == pytest.approx(rate, rel=0.01)
    assert "15, 15 with labels" in out
    assert 0 < result["bytes_per_frame"] <= 1400
    assert 0 < result["mask_age_ms"]["p50"] <= result["mask_age_ms"]["p95"]
    assert all(0 <= result[name] <= 1 for name in ("miou", "expert_miou", "agreement"))
    assert list(result["outputs"]) == ["video", "contact_sheet", "bag"]
    for path in result["outputs"].values():
        assert Path(path).exists()
        assert path in out
    with Reader(result["outputs"]["bag"]) as reader:
        counts = {each.topic: each.msgcount for each in reader.connections}
    assert counts["/camera/semantic/mask"] == 15

    again = demo("--input", drive, "--bundle", bundle, "--output", output)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 2
    assert err == f"gosvae demo: output: {output} is not empty; name another folder\n"


@pytest.mark.dds
@pytest.mark.slow
def test_a_damaged_frame_is_left_out_and_counted(tmp_path: Path, bundle: Path) -> None:
    types = get_typestore(Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/CompressedImage"
    image, header, time_type = (types.types[each] for each in (kind, HEADER, TIME))
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image_raw/compressed", kind, typestore=types)
        for index in range(12):
            _, png = cv2.imencode(".png", np.full((*SIZE, 3), 20 * index, np.uint8))
            data = png[:40] if index == 4 else png
            at = START + index * SECOND // 10
            stamp = time_type(*divmod(at, SECOND))
            message = image(header(stamp, "c"), "png", np.asarray(data).reshape(-1))
            writer.write(connection, at, bytes(types.serialize_cdr(message, kind)))
    output, figures_file = tmp_path / "out", tmp_path / "figures.json"
    process = demo(
        *("--input", tmp_path / "bag", "--bundle", bundle, "--output", output),
        *("--json", figures_file),
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    result = json.loads(figures_file.read_text())
    assert (result["frames_read"], result["damaged"], result["frames_sent"]) == (11, 1, 12)
    assert result["masks_received"] == result["frames_scored"] == 11
    assert "damaged frames" in out
    assert "/camera/image_raw/compressed" in err
    assert Path(result["outputs"]["contact_sheet"]).exists()


@pytest.mark.dds
@pytest.mark.root
@pytest.mark.slow
def test_a_drive_crosses_a_bad_link(
    tmp_path: Path, bundle: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    output, figures_file = tmp_path / "out", tmp_path / "figures.json"
    process = demo(
        *("--input", drive, "--bundle", bundle, "--output", output, "--json", figures_file),
        *("--link", "loss=20% delay=40ms rate=128kbit seed=2"),
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    result = json.loads(figures_file.read_text())
    assert list(result) == KEYS
    assert result["frames_sent"] == 15
    # Even the packets before the last one that arrives are too few for more to be said.
    assert 0 < result["masks_received"] <= 15
    assert 0 <= result["loss"] < 0.7
    assert 0 < result["coverage"] <= 1
    assert result["mask_age_ms"]["p50"] > 40
    assert 0 < result["link_kbit_per_s"]["from_vehicle"] < 128 * 1.1
    assert 0 < result["link_kbit_per_s"]["from_edge"] < 128 * 1.1
    topics = {}
    for side in ("sent", "recording"):
        with Reader(output / side) as reader:
            topics[side] = {each.topic for each in reader.connections}
    made = {"/camera/image_raw/gosvae", "/camera/label", "/tx/diagnostics"}
    assert made == topics["sent"]
    assert {"/camera/semantic/mask", "/rx/diagnostics"} <= topics["recording"]
    assert not made & topics["recording"]


def test_a_link_is_checked_before_anything_plays(tmp_path: Path, bundle: Path, drive: Path) -> None:
    process = demo(
        *("--input", drive, "--bundle", bundle, "--output", tmp_path / "o", "--link", "los=1%")
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("gosvae demo: link has no 'los=1%'; it can be: delay=50ms ")
    assert not (tmp_path / "o").exists()


def test_missing_masks_fail_the_demo(
    tmp_path: Path,
    bundle: Path,
    drive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gosvae_bringup.demo import demo as module
    from gosvae_bringup.demo.prepare import Options

    recorded = delivery(tmp_path, [0, 1, 2, 4])
    monkeypatch.setattr(module, "play", lambda *_: (recorded, None))
    options = Options(
        input=str(drive), bundle=str(bundle), output=str(tmp_path / "o"), json=str(tmp_path / "j")
    )
    assert module.demo(options) == 1
    err = capsys.readouterr().err
    assert "gosvae demo: 6 of 10 masks are missing" in err
    assert "gosvae demo: 5 of 15 frames were read but not sent" in err
    result = json.loads((tmp_path / "j").read_text())
    assert (result["frames_read"], result["damaged"]) == (15, 0)
    assert (result["frames_sent"], result["masks_received"]) == (10, 4)
    assert result["frames_scored"] == 4
    for index in range(10, 15):
        (drive / f"{index}.png").unlink()
    link = dataclasses.replace(options, link="loss=10%", output=str(tmp_path / "p"))
    if not unavailable():
        assert module.demo(link) == 0
    assert Path(result["outputs"]["contact_sheet"]).exists()


def test_several_image_topics_are_named_with_the_remedy(tmp_path: Path, bundle: Path) -> None:
    from gosvae_bringup.demo import prepare as module

    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for side in ("left", "right"):
            connection = writer.add_connection(
                f"/{side}/image", "sensor_msgs/msg/CompressedImage", typestore=types
            )
            writer.write(connection, START, bytes(100))
    options = module.Options(input=str(tmp_path / "bag"), bundle=str(bundle))
    with pytest.raises(UsageError, match=r"/left/image, /right/image.*make demo TOPIC=NAME"):
        module.prepare(options)


def test_frames_that_share_a_stamp_are_refused_before_anything_plays(
    tmp_path: Path, bundle: Path
) -> None:
    from gosvae_bringup.demo import prepare as module

    types = get_typestore(Stores.ROS2_JAZZY)
    names = types.types
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kind = "sensor_msgs/msg/CompressedImage"
        connection = writer.add_connection("/camera/image/compressed", kind, typestore=types)
        for index in range(10):
            time = names["builtin_interfaces/msg/Time"](7, index // 2)
            header = names["std_msgs/msg/Header"](time, "")
            message = names[kind](header, "jpeg", np.zeros(9, np.uint8))
            writer.write(connection, START + index, types.serialize_cdr(message, kind))
    folder = tmp_path / "out"
    options = module.Options(input=str(tmp_path / "bag"), bundle=str(bundle), output=str(folder))
    with pytest.raises(SourceError, match=r"5 of 10 frames repeat a header stamp.*gosvae restamp"):
        module.prepare(options)
    assert not folder.exists()


def test_without_an_input_the_shipped_drive_plays() -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from gosvae_bringup.demo.prepare import Options, open_drive

    source = open_drive(Options())
    assert source.path.name == "street.mcap"
    assert next(source.frames()).label is not None


def test_a_folder_is_no_file_for_figures(tmp_path: Path, bundle: Path, drive: Path) -> None:
    from gosvae_bringup.demo.prepare import Options, prepare

    options = Options(input=str(drive), bundle=str(bundle), json=str(tmp_path))
    with pytest.raises(UsageError, match="is a folder; name a file"):
        prepare(options)


def test_a_drive_without_masks_is_given_up(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gosvae_bringup.demo import play as module

    class Nodes:
        """Processes that neither end nor send anything."""

        logs = tmp_path

        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Nodes:
            return self

        def __exit__(self, *_: object) -> None: ...
        def start(self, node: Node, prefix: list[str]) -> None: ...
        def ended(self) -> list[Ended]:
            return []

    monkeypatch.setattr(module, "Processes", Nodes)
    monkeypatch.setattr(module._Watcher, "missing", lambda *_: None)
    monkeypatch.setattr(module, "network", lambda *_: ({}, {"rx": {}}))
    monkeypatch.setattr(module, "START_SECONDS", 0.2)
    pipeline = Pipeline((Node("p", "replay", "replay", lifetime="drive"),), {})
    run = SimpleNamespace(pipeline=pipeline, folder=tmp_path, link=None, source=[0])
    with pytest.raises(module.DemoError, match="no mask within"):
        module.play(run, Progress(), Event())


@pytest.mark.dds
@pytest.mark.slow
def test_a_failing_node_fails_the_demo(tmp_path: Path, bundle: Path, drive: Path) -> None:
    process = demo(
        *("--input", drive, "--bundle", bundle, "--output", tmp_path / "o", "--providers", "abacus")
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "ended with status 1" in err
    assert "abacus" in err


@pytest.mark.dds
@pytest.mark.slow
def test_a_signal_stops_the_demo(tmp_path: Path, bundle: Path, drive: Path) -> None:
    process = demo(
        *("--input", drive, "--bundle", bundle, "--output", tmp_path / "o", "--rate", "0.02")
    )
    log = tmp_path / "o" / "logs" / "gosvae_replay.log"
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "gosvae demo: stopped\n"


def test_a_missing_expert_is_found_before_anything_plays(
    tmp_path: Path, bundle: Path, drive: Path
) -> None:
    shutil.rmtree(bundle.parent / "experts")
    process = demo("--input", drive, "--bundle", bundle, "--output", tmp_path / "o")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "experts" in err
    assert not (tmp_path / "o").exists()
