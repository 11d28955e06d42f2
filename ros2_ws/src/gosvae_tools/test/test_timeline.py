"""When messages are played, and the static transforms of a bag; no ROS node is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from bags_of_frames import START, TYPES, frame, transforms, write
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from gosvae_tools.drives import Channel, Message
from gosvae_tools.readiness import Readiness
from gosvae_tools.static_transforms import StaticTransforms, transforms_at
from gosvae_tools.timeline import SECOND, Placed, Timeline

IMAGE = Channel("camera/image_raw", "sensor_msgs/msg/Image", "camera", "image")
INFO = Channel("camera/camera_info", "sensor_msgs/msg/CameraInfo", "camera", "camera_info")
TF = Channel("/tf", "std_msgs/msg/Header", "", "tf")


def message(second: float, channel: Channel = IMAGE) -> Message:
    time = round(second * SECOND)
    seconds, nanoseconds = divmod(time, SECOND)
    data = b"\0\1\0\0" + seconds.to_bytes(8, "little", signed=True)[:4]
    return Message(time, time, channel, data + nanoseconds.to_bytes(4, "little"))


def timeline(start: float, duration: float, max_gap: float = 2.0) -> Timeline:
    source: Any = SimpleNamespace(
        start=round(start * SECOND), duration=round(duration * SECOND), interval=SECOND // 10
    )
    return Timeline(source, round(max_gap * SECOND))


def seconds(placed: list[Placed]) -> list[tuple[float, float]]:
    return [(each.position / SECOND, each.clock / SECOND) for each in placed]


def test_frames_come_as_recorded_and_pauses_are_cut() -> None:
    messages = [message(each) for each in (100, 100.5, 101.5, 171.5, 172)]
    placed = list(timeline(100, 72).round(messages))
    assert [each.message for each in placed] == messages
    assert seconds(placed) == [(0, 100), (0.5, 100.5), (1.5, 101.5), (3.5, 171.5), (4, 172)]
    notes = [each.note for each in placed]
    assert [bool(each) for each in notes] == [False, False, False, True, False]
    assert "no frame for 70.0 s" in notes[3] and "after 2.0 s" in notes[3]


def test_other_messages_follow_the_frames() -> None:
    messages = [
        *(message(0, INFO), message(99.5, TF), message(100)),
        *(message(101, TF), message(150, TF), message(160), message(170, TF)),
    ]
    placed = list(timeline(100, 60).round(messages))
    assert [each.position / SECOND for each in placed] == [0, 1.5, 2, 3, 4, 4, 6]
    assert "recorded 100.0 s after the first message" in placed[0].note
    assert [each.clock / SECOND for each in placed[2:]] == [100, 101, 102, 160, 162]


@pytest.mark.parametrize("wrong", [0, 3_000_000_000, 40_000_000_000])
def test_the_clock_does_not_follow_wrong_times(wrong: float) -> None:
    times = sorted([1_000_000.0, 1_000_000.1, 1_000_000.2, wrong])
    line = timeline(1_000_000, 0.2)
    last = 0
    for number in range(3):
        placed = list(line.round([message(each) for each in times]))
        clocks = [each.clock for each in placed]
        assert all(a < b for a, b in zip([last, *clocks], clocks, strict=False))
        assert clocks[-1] < (1_000_000 + 5 * (number + 1)) * SECOND
        last = clocks[-1]
        assert sum(bool(each.note) for each in placed) == 1


def test_rounds_are_moved_behind_each_other() -> None:
    messages = [
        *(message(10, INFO), message(99.8, TF), message(100), message(100.1)),
        *(message(100.15, TF), message(180), message(300, TF)),
    ]
    line = timeline(100, 80)
    first, second = (list(line.round(messages)) for _ in range(2))
    assert [each.message for each in first] == messages
    kept = [each for each in messages if each.time not in (10 * SECOND, 300 * SECOND)]
    assert [each.message.channel for each in second] == [each.channel for each in kept]
    end, (begin, *_) = first[-1], second
    # The lead is that of the first message, cut.
    assert begin.position - end.position == begin.clock - end.clock == SECOND * 19 // 10
    by = {new.message.stamp - old.stamp for new, old in zip(second, kept, strict=True)}
    assert len(by) == 1 and by.pop() > 80 * SECOND
    positions = [each.position for each in (*first, *second)]
    assert positions == sorted(positions)


def test_static_transforms_are_kept_by_frame() -> None:
    static = StaticTransforms()
    kind: Any = TYPES.types["tf2_msgs/msg/TFMessage"]

    def data(*children: str, parent: str = "map") -> bytes:
        some = transforms([1] * len(children), 0).content.transforms
        for each, child in zip(some, children, strict=True):
            each.child_frame_id, each.header.frame_id = child, parent
        return bytes(TYPES.serialize_cdr(kind(some), "tf2_msgs/msg/TFMessage"))

    def held() -> dict[str, str]:
        content: Any = TYPES.deserialize_cdr(static.message(), "tf2_msgs/msg/TFMessage")
        return {each.child_frame_id: each.header.frame_id for each in content.transforms}

    assert static.add(data("a", "b")) and static.add(data("c"))
    assert held() == {"a": "map", "b": "map", "c": "map"} and len(static) == 3
    assert not static.add(data("b"))
    assert not static.add(data("b", parent="odom"), replace=False)
    assert static.add(data("b", parent="odom"))
    assert held() == {"a": "map", "b": "odom", "c": "map"}
    assert not static.add(data("d")[:40])
    assert len(static) == 3


def test_a_bags_static_transforms_are_found_wherever_they_are(tmp_path: Path) -> None:
    items = [
        transforms([0], 0, "/tf_static"),
        transforms([1, 1], 10, "/tf_static"),
        frame(0, START),
        transforms([5, 6, 7], START + 10**12, "/tf_static"),
        transforms([8, 8, 8], START + 10**13, "/tf_static"),
        transforms([2], START),
    ]
    write(tmp_path / "bag", items)
    found = transforms_at(tmp_path / "bag", "/tf_static", START)
    content: Any = TYPES.deserialize_cdr(found.message(), "tf2_msgs/msg/TFMessage")
    stamps = {each.child_frame_id: each.header.stamp.nanosec for each in content.transforms}
    assert stamps == {"child0": 1, "child1": 1, "child2": 7}
    assert len(transforms_at(tmp_path / "bag", "/other", START)) == 0


STATIC = Channel("/tf_static", "std_msgs/msg/Header", "", "tf_static")


def test_static_transforms_neither_wait_nor_come_again() -> None:
    messages = [message(0, STATIC), message(100), message(100.2, STATIC), message(100.5)]
    line = timeline(100, 0.5)
    first, second = (list(line.round(messages)) for _ in range(2))
    assert [each.message for each in first] == messages[1:]
    assert [each.position / SECOND for each in first] == [0, 0.2, 0.5]
    assert not any(each.note for each in first)
    assert [each.message.channel for each in second] == [IMAGE, IMAGE]


ALL = ("gosvae_tx", "gosvae_rx", "gosvae_record")
READY = {
    "gosvae_tx": {"camera publishers": "1", "listeners": "2"},
    "gosvae_rx": {"transmitters": "1", "listeners of semantic": "3"},
    "gosvae_record": {
        "publishers of image_raw/gosvae": "1",
        "publishers of label": "1",
        "publishers of semantic/mask": "1",
    },
}


def missing(nodes: Any, told: Any, label: str = "label", namespace: str = "") -> list[str]:
    readiness = Readiness(nodes, {"front": label})
    message = DiagnosticArray()
    for node, values in told.items():
        pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
        message.status.append(DiagnosticStatus(name=f"{namespace}{node}: front", values=pairs))
    readiness.take(message)
    return readiness.missing()


def test_a_recording_waits_for_the_labels_that_are_played() -> None:
    (line,) = missing(ALL, READY, "label/compressed")
    assert line == "gosvae_record has no of 1 publishers of label/compressed of front"
    values = {**READY["gosvae_record"], "publishers of label/compressed": "1"}
    del values["publishers of label"]
    assert missing(ALL, {**READY, "gosvae_record": values}, "label/compressed") == []


def test_all_nodes_have_to_hear_each_other() -> None:
    assert missing(ALL, READY) == missing(ALL, READY, namespace="robot/") == []
    assert missing(ALL, {}) == [f"{node} reports nothing of front" for node in ALL]
    for node, values in READY.items():
        for key in values:
            for wrong in ("0", "", "none"):
                told = {**READY, node: {**values, key: wrong}}
                (line,) = missing(ALL, told)
                assert line.startswith(f"{node} has ") and f"{key} of front" in line
            left = {**READY, node: {each: values[each] for each in values if each != key}}
            assert len(missing(ALL, left)) == 1
    unlabelled = {**READY, "gosvae_record": {**READY["gosvae_record"], "publishers of label": "0"}}
    assert missing(ALL, unlabelled, label="") == []
    assert (
        "has 1 of 2 listeners"
        in missing(ALL, {**READY, "gosvae_tx": {"camera publishers": "1", "listeners": "1"}}).pop()
    )


def test_of_one_side_its_own_nodes_are_waited_for() -> None:
    told = {
        "gosvae_tx": {"camera publishers": "1", "listeners": "1"},
        "gosvae_record_tx": {"publishers of image_raw/gosvae": "1", "publishers of label": "1"},
    }
    assert missing(("gosvae_tx", "gosvae_record_tx"), told) == []
    told["gosvae_tx"]["listeners"] = "0"
    assert missing(("gosvae_tx",), told) == []
    assert len(missing(("gosvae_tx", "gosvae_record_tx"), told)) == 1
