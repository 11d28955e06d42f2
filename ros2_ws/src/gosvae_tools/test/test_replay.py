"""The replay node as a process of its own, heard over DDS."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from queue import Queue
from threading import Event, Thread, Timer
from typing import Any

import bags_of_frames as bags
import numpy as np
import pytest
from bags_of_frames import PERIOD, START, write
from drives import write_drive

from gosvae_tools.drives import EPOCH, open_source
from gosvae_tools.drives.stamps import read_stamp

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from gosvae_tools.replay import Replay  # noqa: E402
from gosvae_tools.timeline import SECOND, Pace  # noqa: E402

DEADLINE = 40.0
ENVIRONMENT = {
    "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}


class Listener:
    """Keeps what arrives on some topics, serialised, by topic and in one list."""

    def __init__(self, topics: dict[str, Any]) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=int(ENVIRONMENT["ROS_DOMAIN_ID"]))
        self.node = Node("listener", context=self.context)
        self.heard: dict[str, list[bytes]] = defaultdict(list)
        self.order: list[tuple[str, bytes]] = []
        for topic, msgtype in topics.items():
            self.node.create_subscription(
                msgtype, topic, self._keeper(topic), QoSProfile(depth=500), raw=True
            )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def _keeper(self, topic: str) -> Callable[[bytes], None]:
        def keep(data: bytes) -> None:
            self.heard[topic].append(data)
            self.order.append((topic, data))

        return keep

    def until(self, condition: Callable[[], bool]) -> None:
        """Listen until the condition holds; fail at the deadline."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, {topic: len(all_) for topic, all_ in self.heard.items()}
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Listener]]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    listeners: list[Listener] = []

    def make(**topics: Any) -> Listener:
        listeners.append(Listener(topics))
        return listeners[-1]

    yield lambda topics: make(**topics)
    for each in listeners:
        each.close()


def replay(**parameters: Any) -> subprocess.Popen[str]:
    """Start the node with these parameters."""
    arguments = [f"-p{name}:={json.dumps(value)}" for name, value in parameters.items()]
    code = "import sys; from gosvae_tools.replay import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--ros-args", *[x for a in arguments for x in ("-p", a[2:])]],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end; return what was printed."""
    try:
        return process.communicate(timeout=DEADLINE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "bag"
    write_drive(path, 12, (48, 64))
    return path


def test_bag_is_published_unchanged(
    drive: Path, tmp_path: Path, listen: Callable[..., Listener]
) -> None:
    topics = {
        "camera/image_raw/compressed": CompressedImage,
        "camera/label": Image,
        "camera/camera_info": CameraInfo,
    }
    listener = listen(topics)
    report = tmp_path / "new" / "report.json"
    before = time.time_ns()
    process = replay(input=str(drive), report=str(report))
    listener.until(lambda: all(len(listener.heard[topic]) == 12 for topic in topics))
    printed = finish(process)
    assert "played 12 frames" in printed
    assert process.returncode == 0
    for topic in topics:
        recorded = [m.data for m in open_source(drive).messages() if m.channel.topic == topic]
        # DDS pads what it carries to four bytes.
        assert len(listener.heard[topic]) == len(recorded)
        for heard, data in zip(listener.heard[topic], recorded, strict=True):
            assert heard[: len(data)] == data and len(heard) - len(data) < 4
    written = json.loads(report.read_text())
    assert written["input"] == str(drive) and list(written["cameras"]) == ["camera"]
    assert written["cameras"]["camera"]["transport"] == "compressed"
    frames = written["cameras"]["camera"]["frames"]
    assert [each["stamp"] for each in frames] == [
        each.stamp for each in open_source(drive).frames()
    ]
    wall = [each["wall"] for each in frames]
    assert before < wall[0] < time.time_ns() and np.all(np.diff(wall) > 0)
    assert list(report.parent.iterdir()) == [report]
    late = [each["wall"] - wall[0] - each["stamp"] + frames[0]["stamp"] for each in frames]
    told = re.search(r"at most ([\d.]+) ms late", printed)
    assert told is not None
    assert abs(np.median(late)) < float(told[1]) * 1e6 + 50_000_000


def test_folder_becomes_images_with_labels_and_clock(
    tmp_path: Path, listen: Callable[..., Listener]
) -> None:
    import cv2

    for index in range(5):
        for folder, channels in (("val", 3), ("valannot", 1)):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = np.full((20, 30, channels), 2 * index, np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{index}.png"), pixels)
    topics = {"clock": Clock, "front/left/image_raw": Image, "front/left/label": Image}
    listener = listen(topics)
    process = replay(input=str(tmp_path / "val"), cameras=["front/left"], fps=10.0)
    listener.until(lambda: all(len(listener.heard[topic]) >= 5 for topic in topics))
    finish(process)
    assert process.returncode == 0
    source = open_source(tmp_path / "val", ["front/left"], fps=10.0)
    for frame, image, label in zip(
        source.frames(),
        listener.heard["front/left/image_raw"],
        listener.heard["front/left/label"],
        strict=True,
    ):
        assert read_stamp(image) == read_stamp(label) == frame.stamp
        image, label = deserialize_message(image, Image), deserialize_message(label, Image)
        assert image.header.frame_id == label.header.frame_id == "front_left_optical_frame"
        assert (image.encoding, image.height, image.width, image.step) == ("rgb8", 20, 30, 90)
        np.testing.assert_array_equal(np.reshape(image.data, (20, 30, 3)), frame.image)
        assert label.encoding == "mono8"
        np.testing.assert_array_equal(np.reshape(label.data, (20, 30)), frame.label)
    clock = [deserialize_message(each, Clock).clock for each in listener.heard["clock"]]
    times = [each.sec * 1_000_000_000 + each.nanosec for each in clock]
    assert np.all(np.diff(times) > 0)
    assert {EPOCH + k * 100_000_000 for k in range(5)} <= set(times)


def test_loop_never_turns_back(drive: Path, listen: Callable[..., Listener]) -> None:
    listener = listen({"camera/image_raw/compressed": CompressedImage, "camera/label": Image})
    process = replay(input=str(drive), loop=True, rate=8.0, clock_rate=0.0)
    images = listener.heard["camera/image_raw/compressed"]
    listener.until(lambda: len(images) > 30)
    process.send_signal(signal.SIGINT)
    finish(process)
    assert process.returncode == 0
    assert set(np.diff([read_stamp(data) for data in images])) <= {66_666_666, 66_666_667}
    assert images[12][12:] == images[0][12:]


def test_a_drive_can_happen_now(
    drive: Path, tmp_path: Path, listen: Callable[..., Listener]
) -> None:
    topics = {"camera/image_raw/compressed": CompressedImage, "camera/label": Image, "clock": Clock}
    listener = listen(topics)
    report = tmp_path / "report.json"
    begin = time.time_ns()
    process = replay(input=str(drive), report=str(report), restamp=True, rate=2.0)
    images, labels = listener.heard["camera/image_raw/compressed"], listener.heard["camera/label"]
    listener.until(lambda: len(images) == len(labels) == 12)
    finish(process)
    assert not listener.heard["clock"]
    stamps = [read_stamp(data) for data in images]
    assert stamps == [read_stamp(data) for data in labels]
    frames = json.loads(report.read_text())["cameras"]["camera"]["frames"]
    assert [each["stamp"] for each in frames] == stamps
    assert [each["recorded"] for each in frames] == [f.stamp for f in open_source(drive).frames()]
    assert begin < stamps[0] and stamps[-1] < time.time_ns()
    np.testing.assert_allclose(np.diff(stamps), 1e9 / 30, atol=2)
    assert max(abs(each["wall"] - each["stamp"]) for each in frames) < SECOND // 2


def test_nothing_is_kept_without_a_report(drive: Path) -> None:
    context = Context()
    rclpy.init(context=context, domain_id=int(ENVIRONMENT["ROS_DOMAIN_ID"]))
    overrides = {"input": str(drive), "rate": 20.0}
    node = Replay(
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
    )
    node._play(node._rounds(), Event())
    assert node._sent == {"camera": []}
    node.destroy_node()
    context.try_shutdown()


def test_start_offset_and_cameras_of_other_names(
    drive: Path, listen: Callable[..., Listener]
) -> None:
    listener = listen({"rear/image_raw/compressed": CompressedImage})
    process = replay(input=str(drive), cameras=["rear"], start_offset=0.5)
    heard = listener.heard["rear/image_raw/compressed"]
    listener.until(lambda: len(heard) == 4)
    assert "played 4 frames" in finish(process)
    assert read_stamp(heard[0]) == EPOCH + 533_333_333


@pytest.mark.slow
def test_waits_for_subscribers_until_told_to_stop(drive: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    process = replay(input=str(drive), report=str(report))
    assert process.stdout is not None
    while (
        "waiting for a subscriber of camera/image_raw/compressed" not in process.stdout.readline()
    ):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    finish(process)
    assert process.returncode == 0
    assert json.loads(report.read_text())["cameras"]["camera"]["frames"] == []


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "no input given"),
        ({"input": "/nowhere"}, "/nowhere does not exist"),
        ({"input": "BAG", "rate": 0.0}, "rate"),
        ({"input": "BAG", "cameras": ["left", "right"]}, "set `topics`"),
    ],
)
def test_what_cannot_be_played_is_one_line(
    drive: Path, parameters: dict[str, Any], words: str
) -> None:
    if parameters.get("input") == "BAG":
        parameters = parameters | {"input": str(drive)}
    process = replay(**parameters)
    printed = finish(process)
    assert process.returncode == 1
    fatal = [line for line in printed.splitlines() if line.startswith("[FATAL]")]
    assert len(fatal) == 1 and words in fatal[0] and "Traceback" not in printed


def clocks(listener: Listener) -> list[int]:
    stamps = [deserialize_message(each, Clock).clock for each in listener.heard["clock"]]
    return [each.sec * SECOND + each.nanosec for each in stamps]


GAPS: dict[str, list[int]] = {
    "a pause": [0, 1, 2, 900, 901, 902],
    "two pauses": [0, 300, 301, 302, 900, 901],
    "a time 53 years ago": [-(START // PERIOD), 0, 1, 2, 3, 4],
    "a time out of any range": [0, 1, 2, 3, 4, (1 << 63) // PERIOD],
}


@pytest.mark.parametrize("places", GAPS.values(), ids=GAPS)
def test_pauses_are_cut_and_announced(
    places: list[int], tmp_path: Path, listen: Callable[..., Listener]
) -> None:
    stamps = [START + i * PERIOD for i in range(6)]
    times = [START + place * PERIOD for place in places]
    write(tmp_path / "bag", [bags.frame(s, t, i) for i, (s, t) in enumerate(zip(stamps, times))])  # noqa: B905
    listener = listen({"camera/image_raw/compressed": CompressedImage, "clock": Clock})
    process = replay(input=str(tmp_path / "bag"), max_gap=0.5)
    heard = listener.heard["camera/image_raw/compressed"]
    begin = time.monotonic()
    listener.until(lambda: len(heard) == 6)
    printed = finish(process)
    assert time.monotonic() - begin < 30
    assert [read_stamp(each) for each in heard] == stamps
    cut = sum(b - a > 8 for a, b in pairwise(places))
    assert printed.count("going on after 0.5 s") == cut == (2 if places[1] == 300 else 1)
    clock = clocks(listener)
    assert np.all(np.diff(clock) > 0)
    sound = [each for each in times if abs(each - START) < 86_400 * SECOND]
    # A clock's message may give way to the next one.
    assert all(min(abs(each - at) for each in clock) < SECOND // 5 for at in sound)
    assert min(clock) >= sound[0] - SECOND and max(clock) <= sound[-1] + SECOND


def test_what_comes_long_before_the_first_frame_is_not_waited_for(
    tmp_path: Path, listen: Callable[..., Listener]
) -> None:
    early = [bags.label(START, 0, 3), bags.label(START, START - 75 * SECOND, 4)]
    frames = [bags.frame(START + i * PERIOD, START + i * PERIOD, i) for i in range(3)]
    write(tmp_path / "bag", [*early, *frames])
    topics = {"camera/image_raw/compressed": CompressedImage, "camera/label": Image}
    listener = listen(topics)
    process = replay(input=str(tmp_path / "bag"), max_gap=1.0)
    listener.until(lambda: [len(listener.heard[each]) for each in topics] == [3, 2])
    assert [topic for topic, _ in listener.order[:2]] == ["camera/label"] * 2
    printed = finish(process)
    assert "it is played after 1.0 s" in printed and "played 3 frames" in printed


def test_a_loop_goes_on_behind_a_wrong_time(
    tmp_path: Path, listen: Callable[..., Listener]
) -> None:
    times = [START + i * PERIOD for i in range(5)] + [(1 << 63) + 1]
    stamps = [START + i * PERIOD for i in range(6)]
    write(tmp_path / "bag", [bags.frame(s, t) for s, t in zip(stamps, times)])  # noqa: B905
    listener = listen({"camera/image_raw/compressed": CompressedImage, "clock": Clock})
    process = replay(input=str(tmp_path / "bag"), loop=True, max_gap=0.3)
    heard = listener.heard["camera/image_raw/compressed"]
    listener.until(lambda: len(heard) > 14)
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in finish(process)
    found = [read_stamp(each) for each in heard]
    assert np.all(np.diff(found) > 0) and found[-1] - found[0] < 60 * SECOND
    assert np.all(np.diff(clocks(listener)) > 0)
    assert abs(clocks(listener)[-1] - found[-1]) < SECOND


def test_a_loop_logs_ever_more_rarely(
    drive: Path, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gosvae_tools.replay.LOG_PERIOD", SECOND // 10)
    context = Context()
    rclpy.init(context=context, domain_id=int(ENVIRONMENT["ROS_DOMAIN_ID"]))
    overrides = {"input": str(drive), "rate": 4.0, "loop": True}
    node = Replay(
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
    )
    lines: list[str] = []
    monkeypatch.setattr(node.get_logger(), "info", lines.append)
    stop = Event()
    Timer(3.0, stop.set).start()
    node._play(node._rounds(), stop)
    progress = [line for line in lines if "the input has 12" in line]
    # 0.1 s apart in the first round of 0.2 s, then 0.2, 0.4, 0.8 and 1.6 s.
    assert 3 <= len(progress) <= 7
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.slow
def test_nothing_is_played_before_all_hear_each_other(
    drive: Path, listen: Callable[..., Listener]
) -> None:
    listener = listen({"camera/image_raw/compressed": CompressedImage, "camera/label": Image})
    publisher = listener.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    told = {
        "gosvae_tx: camera": {"camera publishers": "1", "listeners": "1"},
        "gosvae_rx: camera": {"transmitters": "1", "listeners of semantic": "1"},
        "gosvae_record: camera": {
            f"publishers of {each}": "1" for each in ("image_raw/gosvae", "semantic/mask", "label")
        },
    }

    def tell() -> None:
        message = DiagnosticArray()
        for name, values in told.items():
            pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
            message.status.append(DiagnosticStatus(name=name, values=pairs))
        publisher.publish(message)

    listener.node.create_timer(0.1, tell)
    nodes = ["gosvae_tx", "gosvae_rx", "gosvae_record"]
    process = replay(input=str(drive), wait_for=nodes, rate=10.0)
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    Thread(target=lambda: [lines.put(each) for each in process.stdout], daemon=True).start()  # type: ignore[union-attr]
    said: list[str] = []

    def is_waiting() -> bool:
        while not lines.empty():
            said.append(lines.get())
        return any("waiting for gosvae_tx has 1 of 2 listeners of camera" in each for each in said)

    listener.until(is_waiting)
    assert not listener.order
    told["gosvae_tx: camera"]["listeners"] = "2"
    listener.until(lambda: len(listener.heard["camera/image_raw/compressed"]) == 12)
    process.wait(DEADLINE)
    assert process.returncode == 0


def test_a_node_that_never_comes_is_named(drive: Path, listen: Callable[..., Listener]) -> None:
    listen({"camera/image_raw/compressed": CompressedImage})
    process = replay(input=str(drive), wait_for=["gosvae_rx"], ready_timeout=0.5)
    printed = finish(process)
    assert process.returncode == 1
    fatal = [line for line in printed.splitlines() if line.startswith("[FATAL]")]
    assert len(fatal) == 1 and "not ready within 0.5 s" in fatal[0]
    assert "gosvae_rx reports nothing of camera" in fatal[0]


def test_pace_does_not_drift() -> None:
    pace = Pace(rate=3.0, position=10, since=1_000)
    hour = 3_600_000_000_000
    assert pace.wall(10 + 3 * hour) == 1_000 + hour
    assert Pace(1.0, 5, time.monotonic_ns() - 100).time() >= 105
