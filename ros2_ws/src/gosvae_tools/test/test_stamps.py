"""Encoding and decoding of what was stamped or recorded out of order, or is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from bags_of_frames import PERIOD, START, frame, jpeg, write
from rosbags.rosbag2 import StoragePlugin

from gosvae_bringup import cli
from gosvae_codec import Header, ModelBundle, Packet
from gosvae_codec.testing import write_tiny_bundle
from gosvae_tools.assembly import AGAIN, Sorter
from gosvae_tools.bag_writer import BagWriter
from gosvae_tools.bags import packets, reading
from gosvae_tools.inspect import inspect

FRAMES = 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return ModelBundle.load(write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def run(
    bundle: ModelBundle, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Return what calls the command with --json: status, figures, and what went to stderr."""

    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        status = cli.main([*map(str, arguments), "--bundle", str(bundle.path), "--json"])
        out, err = capsys.readouterr()
        return status, json.loads(out) if out else {}, err

    return call


def shifted(index: int, by: int, first: int, last: int) -> int:
    return START + index * PERIOD + (by if first <= index < last else 0)


STAMPS: dict[str, Callable[[int], int]] = {
    "rising": lambda i: START + i * PERIOD,
    "swapped in pairs": lambda i: START + (i ^ 1) * PERIOD,
    "ahead by hours for a while": lambda i: shifted(i, 7_200_000_000_000, 10, 20),
    "set back twice": lambda i: START + i * PERIOD - (i // 13) * 3_000_000_000,
    "begun again": lambda i: 1_000_000_000 + i % 11 * PERIOD,
    "zero": lambda i: 0,
    "the same": lambda i: START,
    "three times each": lambda i: START + i // 3 * PERIOD,
    "falling": lambda i: START - i * PERIOD,
    "below zero": lambda i: -3_000_000_000 + i * PERIOD,
    "the least and the greatest": lambda i: (-(1 << 31), (1 << 31) - 1)[i % 2] * 1_000_000_000,
    "any": lambda i: int(np.random.default_rng(i).integers(0, START)),
}


def picture(folder: Path) -> dict[str, np.ndarray]:
    return {
        file.relative_to(folder).as_posix(): cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        for file in folder.rglob("*.png")
    }


@pytest.mark.parametrize("stamps", STAMPS.values(), ids=STAMPS)
def test_stamps_are_only_carried(stamps: Callable[[int], int], run: Any, tmp_path: Path) -> None:
    source = write(
        tmp_path / "bag", [frame(stamps(i), START + i * PERIOD, i) for i in range(FRAMES)]
    )
    status, figures, err = run("encode", source, "-o", tmp_path / "packets.mcap")
    assert (status, err) == (0, "")
    assert figures["frames_in_input"] == figures["frames_encoded"] == FRAMES
    seconds = FRAMES * PERIOD / 1e9
    assert figures["kbit_per_s"] == pytest.approx(figures["bytes"] * 8e-3 / seconds, rel=1e-3)
    with reading(tmp_path / "packets.mcap") as reader:
        made = [(each.time, each.message) for each in packets(reader)]
    assert [time for time, _ in made] == [START + i * PERIOD for i in range(FRAMES)]
    carried = [each.header.stamp.sec * 10**9 + each.header.stamp.nanosec for _, each in made]
    assert carried == [stamps(i) for i in range(FRAMES)]
    status, figures, err = run("decode", tmp_path / "packets.mcap", "-o", tmp_path / "masks")
    assert (status, err) == (0, "")
    assert figures["decoded"] == figures["frames"] == FRAMES
    assert (figures["packets_lost"], figures["frames_without_reference"]) == (0, 0)
    assert len(picture(tmp_path / "masks")) == FRAMES


def test_masks_of_a_stamp_are_numbered(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", [frame(i // 2 * 10**9, START + i * PERIOD, i) for i in range(4)])
    run("encode", tmp_path / "bag", "-o", tmp_path / "packets.mcap")
    run("decode", tmp_path / "packets.mcap", "-o", tmp_path / "masks")
    assert sorted(picture(tmp_path / "masks")) == [
        *("0.000000000.png", "0.000000000_2.png", "1.000000000.png", "1.000000000_2.png")
    ]


def test_cameras_of_one_trigger_keep_their_masks(run: Any, tmp_path: Path) -> None:
    cameras = ("front", "front/left")
    items = [
        frame(START + i * PERIOD, START + i * PERIOD + k, 2 * i + k, camera)
        for i in range(6)
        for k, camera in enumerate(cameras)
    ]
    write(tmp_path / "bag", items)
    names = ",".join(cameras)
    status, figures, _ = run(
        "encode", tmp_path / "bag", "-o", tmp_path / "p.mcap", "--cameras", names
    )
    assert (status, figures["frames"]) == (0, 12)
    run("decode", tmp_path / "p.mcap", "-o", tmp_path / "masks")
    found = picture(tmp_path / "masks")
    assert sorted(Path(name).parent.as_posix() for name in found) == sorted(cameras * 6)


def test_frames_recorded_at_one_time_have_no_rate(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", [frame(START, 0, i) for i in range(5)])
    status, figures, _ = run("encode", tmp_path / "bag", "-o", tmp_path / "packets.mcap")
    assert (status, figures["frames_encoded"], figures["kbit_per_s"]) == (0, 5, None)


def test_times_before_1970_are_recorded_in_order(run: Any, tmp_path: Path) -> None:
    items = [frame(START + i, -(10**9) + i * PERIOD, i) for i in range(20)]
    write(tmp_path / "bag", items, StoragePlugin.SQLITE3)
    status, figures, _ = run("encode", tmp_path / "bag", "-o", tmp_path / "packets.mcap")
    assert (status, figures["frames_encoded"]) == (0, 20)
    assert run("decode", tmp_path / "packets.mcap", "-o", tmp_path / "masks")[1]["decoded"] == 20


@pytest.mark.parametrize("order", ["pairs", "reversed", "shuffled"])
def test_packets_in_any_order_give_all_masks(order: str, run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", [frame(i, START + i * PERIOD, i) for i in range(FRAMES)])
    options = ("--slices", 3, "--intra-period", 5)
    run("encode", tmp_path / "bag", "-o", tmp_path / "p.mcap", *options)
    run("decode", tmp_path / "p.mcap", "-o", tmp_path / "expected")
    with reading(tmp_path / "p.mcap") as reader:
        made = [each.message for each in packets(reader)]
    places = list(range(len(made)))
    if order == "pairs":
        places = [min(each ^ 1, len(made) - 1) for each in places]
        places = list(dict.fromkeys(places))
    elif order == "reversed":
        places.reverse()
    else:
        np.random.default_rng(0).shuffle(places)
    with BagWriter(tmp_path / "mixed.mcap") as writer:
        for at, place in enumerate(places):
            writer.write("/camera/image_raw/gosvae", START + at * PERIOD, made[place])
    status, figures, _ = run("decode", tmp_path / "mixed.mcap", "-o", tmp_path / "masks")
    assert status == 0
    assert (figures["packets"], figures["packets_lost"]) == (len(made), 0)
    assert (figures["decoded"], figures["frames_without_reference"]) == (FRAMES, 0)
    values = inspect(tmp_path / "mixed.mcap").values["cameras"]["camera"]
    assert (values["frames"], values["loss"], values["streams"]) == (FRAMES, 0.0, 1)
    expected, found = picture(tmp_path / "expected"), picture(tmp_path / "masks")
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask)


def test_packets_that_come_twice_count_once(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", [frame(i, START + i * PERIOD, i) for i in range(20)])
    run("encode", tmp_path / "bag", "-o", tmp_path / "p.mcap")
    with reading(tmp_path / "p.mcap") as reader:
        made = list(packets(reader))
    with BagWriter(tmp_path / "twice.mcap") as writer:
        for later in (0, 2_000_000, 60_000_000_000):
            # Duplicates of the link come at once, a stream that is played again comes later.
            for each in made:
                writer.write("/camera/image_raw/gosvae", each.time + later, each.message)
    assert inspect(tmp_path / "twice.mcap").values["cameras"]["camera"]["loss"] == 0
    _, figures, _ = run("decode", tmp_path / "twice.mcap", "-o", tmp_path / "masks")
    assert (figures["decoded"], figures["packets_repeated"]) == (40, 20)
    assert len(picture(tmp_path / "masks")) == 40


def test_the_sorter_gives_up_what_it_cannot_keep() -> None:
    same = dict.fromkeys(("source_width", "source_height", "levels", "reference"), 1)
    same |= {"slice_index": 0, "slice_count": 1}

    def packet(sequence: int, stream: int = 1) -> Packet:
        place = {"stream": stream, "sequence": sequence % (1 << 32)}
        return Packet(Header(), 0, **place, **same, payload=b"")

    near_the_end = (1 << 32) - 2
    for order in permutations(range(4)):
        sorter = Sorter()
        for place in order:
            assert list(sorter.push(packet(near_the_end + place), 0)) == []
        given = [each.sequence for _, _, each in sorter.rest()]
        assert given == [(near_the_end + place) % (1 << 32) for place in range(4)]
    sorter = Sorter(depth=3)
    given = [each.sequence for k in (2, 1, 0, 5, 4, 3) for _, _, each in sorter.push(packet(k), 0)]
    assert given == [0, 1, 2]
    # Stream 2 came later, so that it waits for the rest of stream 1.
    sorter = Sorter()
    for stream, sequence, time in ((1, 1, 0), (2, 0, 0), (1, 0, 0), (1, 1, AGAIN)):
        assert list(sorter.push(packet(sequence, stream), time)) == []
    given = [(each.stream, each.sequence) for _, _, each in sorter.rest()]
    assert given == [(1, 0), (1, 1), (2, 0), (1, 1)]


def damaged(count: int) -> Any:
    bad = (b"", jpeg(3)[:200], b"\0" * 3000, b"\xff\xd8\xff\xe0")
    return [
        frame(i, START + i * PERIOD, i, data=bad[i % 4] if i < count else None) for i in range(20)
    ]


def test_damaged_frames_are_left_out_and_counted(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", damaged(2))
    status, figures, err = run("encode", tmp_path / "bag", "-o", tmp_path / "p.mcap")
    assert status == 0
    assert (figures["frames_in_input"], figures["frames_damaged"]) == (20, 2)
    assert figures["frames_encoded"] == figures["packets"] == 18
    assert err.count("left out: ") == err.count("\n") == 2
    assert run("decode", tmp_path / "p.mcap", "-o", tmp_path / "masks")[1]["decoded"] == 18


def test_too_many_damaged_frames_fail_but_keep_the_rest(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", damaged(5))
    status, figures, err = run("encode", tmp_path / "bag", "-o", tmp_path / "p.mcap")
    assert (status, figures["frames_encoded"]) == (1, 15)
    assert "5 of 20 frames are damaged, more than the share 0.1" in err
    assert "left out for like reasons: 2 more" in err
    assert run("decode", tmp_path / "p.mcap", "-o", tmp_path / "masks")[1]["decoded"] == 15
    options = ("--max-damaged", 0.25)
    assert run("encode", tmp_path / "bag", "-o", tmp_path / "q.mcap", *options)[0] == 0
    options = ("--max-damaged", 0)
    write(tmp_path / "one", damaged(1))
    assert run("encode", tmp_path / "one", "-o", tmp_path / "r.mcap", *options)[0] == 1


def test_a_drive_of_damaged_frames_alone_leaves_nothing(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", damaged(20))
    status, _, err = run("encode", tmp_path / "bag", "-o", tmp_path / "p.mcap")
    assert status == 1 and err.count("\n") == 1 and "no frame could be read" in err
    assert [each.name for each in tmp_path.iterdir()] == ["bag"]


@pytest.mark.parametrize("share", ["1.5", "-0.1", "many"])
def test_a_share_is_a_number_from_0_to_1(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["encode", "bag", "-o", "x", "--max-damaged", share])
    assert exit.value.code == 2
    assert "--max-damaged" in capsys.readouterr().err


def test_damaged_packets_above_the_share_fail(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "bag", [frame(i, START + i * PERIOD, i) for i in range(20)])
    run("encode", tmp_path / "bag", "-o", tmp_path / "p.mcap", "--intra-period", 0)
    with reading(tmp_path / "p.mcap") as reader:
        made = list(packets(reader))
    with BagWriter(tmp_path / "spoilt.mcap") as writer:
        for index, each in enumerate(made):
            if index < 4:
                each.message.payload[0] ^= 1
            writer.write("/camera/image_raw/gosvae", each.time, each.message)
    status, figures, err = run("decode", tmp_path / "spoilt.mcap", "-o", tmp_path / "masks")
    assert (status, figures["decoded"], figures["packets_rejected"]) == (1, 16, 4)
    assert "4 of 20 packets are damaged" in err
    assert len(picture(tmp_path / "masks")) == 16
