"""`gosvae restamp`: new stamps, and everything else as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from bags_of_frames import PERIOD, START, TYPES, frame, label, text, transforms, write
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability
from rosbags.interfaces import QosTime as Time
from rosbags.rosbag2 import CompressionMode, Reader, StoragePlugin

from gosvae_bringup import cli
from gosvae_tools.drives import open_source

FOREVER = Time(9223372036, 854775807)
QOS = Qos(
    QosHistory.KEEP_LAST,
    7,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)
LAYOUTS = [
    (StoragePlugin.MCAP, CompressionMode.NONE),
    (StoragePlugin.MCAP, CompressionMode.STORAGE),
    (StoragePlugin.MCAP, CompressionMode.FILE),
    (StoragePlugin.SQLITE3, CompressionMode.NONE),
    (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        status = cli.main(["restamp", *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return status, json.loads(out) if out else {}, err

    return call


def messages(path: Path) -> list[tuple[str, int, Any]]:
    with Reader(path) as reader:
        return [
            (connection.topic, time, TYPES.deserialize_cdr(data, connection.msgtype))
            for connection, time, data in reader.messages(reader.connections)
        ]


def stamp(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def mixed(stamps: Callable[[int], int]) -> Any:
    for i in range(12):
        time = START + i * PERIOD
        yield frame(stamps(i), time, i)
        yield transforms((stamps(i), stamps(i) + 5), time + 10)
        yield label(stamps(i), time + 3_000_000, i)
        yield text(time + 4_000_000)


@pytest.mark.parametrize(("storage", "compression"), LAYOUTS)
def test_all_but_stamps_stays(
    storage: StoragePlugin, compression: CompressionMode, run: Any, tmp_path: Path
) -> None:
    source = write(tmp_path / "bag", mixed(lambda i: 0), storage, compression, [QOS])
    status, figures, err = run(source, "-o", tmp_path / "new")
    assert (status, err) == (0, "")
    assert figures["messages_in_input"] == figures["messages_written"] == 48
    assert (figures["restamped"], figures["without_header"]) == (36, 12)
    old, new = messages(source), messages(tmp_path / "new")
    assert [each[:2] for each in new] == [each[:2] for each in old]
    for (topic, time, before), (_, _, after) in zip(old, new, strict=True):
        if topic == "/note":
            assert after == before
        elif topic == "/tf":
            for each in after.transforms:
                assert stamp(each) == time
            assert [each.child_frame_id for each in after.transforms] == ["child0", "child1"]
        else:
            # The label shares its frame's stamp.
            assert stamp(after) == (time if "image" in topic else time - 3_000_000)
            assert after.header.frame_id == "eye"
            assert bytes(after.data) == bytes(before.data)
    with Reader(source) as first, Reader(tmp_path / "new") as second:
        for name in ("topic", "msgtype", "msgcount", "digest", "ext"):
            assert [getattr(each, name) for each in second.connections] == [
                getattr(each, name) for each in first.connections
            ]
    modes = [
        yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
            "compression_mode"
        ]
        for path in (source, tmp_path / "new")
    ]
    assert modes[0] == modes[1]
    suffixes = {each.suffix for each in source.iterdir()}
    assert {each.suffix for each in (tmp_path / "new").iterdir()} == suffixes
    labels = [each.label for each in open_source(tmp_path / "new").frames()]
    assert [int(each[0, 0]) for each in labels if each is not None] == list(range(12))


def test_chunks_stay_compressed(run: Any, tmp_path: Path) -> None:
    sizes = {}
    for mode in (CompressionMode.NONE, CompressionMode.STORAGE):
        source = write(
            tmp_path / mode.name, [label(0, START + i, 0) for i in range(50)] + [frame(0, START)],
            compression=mode,
        )  # fmt: skip
        run(source, "-o", tmp_path / f"{mode.name}.mcap")
        sizes[mode] = (tmp_path / f"{mode.name}.mcap").stat().st_size
    assert sizes[CompressionMode.STORAGE] < sizes[CompressionMode.NONE] / 10


STAMPS: dict[str, Callable[[int], int]] = {
    "swapped": lambda i: START + (i ^ 1) * PERIOD,
    "twice each": lambda i: START + i // 2 * PERIOD,
    "falling": lambda i: START - i * PERIOD,
    "below zero": lambda i: -i,
}


@pytest.mark.parametrize("stamps", STAMPS.values(), ids=STAMPS)
def test_labels_keep_their_frames(stamps: Callable[[int], int], run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", mixed(stamps))
    assert run(tmp_path / "bag", "-o", tmp_path / "new.mcap")[0] == 0
    frames = list(open_source(tmp_path / "new.mcap").frames())
    assert [each.stamp for each in frames] == [START + i * PERIOD for i in range(12)]
    assert [int(each.label[0, 0]) for each in frames if each.label is not None] == list(range(12))


def test_a_rate_spaces_frames_and_takes_the_rest_along(run: Any, tmp_path: Path) -> None:
    # All frames were recorded at once.
    items = [
        each
        for i in range(6)
        for each in (frame(0, START, i), label(0, START, i), frame(0, START, i, "rear"))
    ]
    write(tmp_path / "bag", [transforms([7], START - 10**9, "/tf_static"), *items])
    options = ("--rate", 10, "--start", 100.5)
    status, figures, _ = run(tmp_path / "bag", "-o", tmp_path / "new", *options)
    assert status == 0
    assert (figures["first_stamp"], figures["last_stamp"]) == ("100.500000000", "101.000000000")
    drive = open_source(tmp_path / "new", ["camera", "rear"])
    frames = list(drive.frames())
    for camera in ("camera", "rear"):
        stamps = [each.stamp for each in frames if each.camera == camera]
        assert stamps == [100_500_000_000 + i * 100_000_000 for i in range(6)]
    assert [int(each.label[0, 0]) for each in frames if each.label is not None] == list(range(6))
    static = next(each for topic, _, each in messages(tmp_path / "new") if topic == "/tf_static")
    assert stamp(static.transforms[0]) == 100_500_000_000


def test_a_start_moves_all_times(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", mixed(lambda i: 3))
    run(tmp_path / "bag", "-o", tmp_path / "new", "--start", 2)
    for (topic, before, _), (_, after, content) in zip(
        messages(tmp_path / "bag"), messages(tmp_path / "new"), strict=True
    ):
        assert after == before - START + 2 * 10**9
        if topic == "/camera/image_raw/compressed":
            assert stamp(content) == after


def test_messages_that_are_cut_off_are_copied(run: Any, tmp_path: Path) -> None:
    cut = [
        frame(5, START + PERIOD)._replace(content=b"\0\1\0\0\1"),
        transforms([1], START)._replace(content=b"\0\1\0\0\3\0\0\0\1"),
    ]
    write(tmp_path / "bag", [frame(5, START), *cut])
    status, figures, _ = run(tmp_path / "bag", "-o", tmp_path / "new.mcap")
    assert (status, figures["restamped"], figures["messages_written"]) == (0, 1, 3)


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--rate", "0"], 2, "rate is 0; give a number above 0"),
        (["--start", "3e9"], 1, "which a header cannot hold"),
    ],
)
def test_what_cannot_be_restamped_leaves_nothing(
    options: list[str], status: int, reason: str, run: Any, tmp_path: Path
) -> None:
    write(tmp_path / "bag", [frame(5, START)])
    found, _, err = run(tmp_path / "bag", "-o", tmp_path / "new.mcap", *options)
    assert found == status and reason in err and err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["bag"]


def test_an_absurd_time_of_recording_asks_for_a_rate(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", [frame(5, START), frame(6, (1 << 63) + 5)])
    status, _, err = run(tmp_path / "bag", "-o", tmp_path / "new.mcap")
    assert status == 1 and "give --rate" in err
    assert run(tmp_path / "bag", "-o", tmp_path / "new.mcap", "--rate", 10)[0] == 0
    stamps = [each.stamp for each in open_source(tmp_path / "new.mcap").frames()]
    assert stamps == [START, START + 100_000_000]


def test_equal_times_of_recording_are_told(run: Any, tmp_path: Path) -> None:
    items = [frame(0, START + i // 2, i) for i in range(6)]
    source = write(tmp_path / "bag", items)
    status, _, err = run(source, "-o", tmp_path / "new")
    assert status == 0 and "3 of 6 images still repeat a stamp" in err and "--rate HZ" in err
    assert run(source, "-o", tmp_path / "spaced", "--rate", "15")[::2] == (0, "")


def test_a_bag_without_images_has_no_rate(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", [transforms([0], START)])
    assert run(tmp_path / "bag", "-o", tmp_path / "a.mcap", "--rate", 5)[0] == 2
    assert run(tmp_path / "bag", "-o", tmp_path / "b.mcap")[1]["restamped"] == 1
