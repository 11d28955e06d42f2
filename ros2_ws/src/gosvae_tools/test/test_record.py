"""The record node as a process of its own, and the bag that it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rosbags.highlevel import AnyReader

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from ament_index_python.packages import get_package_share_directory  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.duration import Duration  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from gosvae_codec.testing import OBJECTS  # noqa: E402
from gosvae_common.boxes import Box  # noqa: E402
from gosvae_common.detections import to_detections  # noqa: E402
from gosvae_common.messages import type_name  # noqa: E402
from gosvae_msgs.msg import Feedback, LabelInfo, TokenPacket  # noqa: E402
from gosvae_tools.bag_writer import message_types  # noqa: E402
from gosvae_tools.bags import packets, reading  # noqa: E402
from gosvae_tools.drives.bag import _BESIDE_IMAGES  # noqa: E402
from gosvae_tools.inspect import inspect  # noqa: E402
from gosvae_tools.record import DIAGNOSTICS, TOPICS  # noqa: E402

DEADLINE = 40.0
ENVIRONMENT = {
    "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}


def record(output: Path, **parameters: Any) -> subprocess.Popen[str]:
    """Start the node."""
    parameters = {"output": str(output), **parameters}
    arguments = [word for k, v in parameters.items() for word in ("-p", f"{k}:={json.dumps(v)}")]
    code = "import sys; from gosvae_tools.record import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--ros-args", *arguments],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_start(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    lines = []
    while not lines or "recording to" not in lines[-1]:
        assert process.poll() is None, lines
        lines.append(process.stdout.readline())


def finish(process: subprocess.Popen[str], number: int | None = None) -> str:
    """Send a signal, if any, and wait for the end; return what was printed."""
    if number is not None:
        process.send_signal(number)
    try:
        return process.communicate(timeout=DEADLINE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    context = Context()
    rclpy.init(context=context, domain_id=int(ENVIRONMENT["ROS_DOMAIN_ID"]))
    node = Node("speaker", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def image(second: int) -> Image:
    message = Image(height=48, width=64, step=64, encoding="mono8")
    message.header.stamp.sec, message.header.frame_id = second, "eye"
    message.data = array("B", [second % 256]) * (48 * 64)
    return message


def packet(second: int) -> TokenPacket:
    message = TokenPacket(sequence=second, payload=array("B", range(200)))
    message.header.stamp.sec = second
    return message


def boxes(second: int) -> Any:
    box = Box("car", 0.5, 1.0, 2.0, 3.0, float(second))
    return to_detections([box], OBJECTS, image(second).header)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_bag_holds_all_that_arrived(node: Node, tmp_path: Path, number: int) -> None:
    output = tmp_path / "new" / "bag"
    process = record(output, cameras=["front"])
    wait_for_start(process)
    made = {
        "front/image_raw/gosvae": packet,
        "front/image_raw/gosvae/feedback": lambda k: Feedback(acknowledged=k),
        "front/semantic/mask": image,
        "front/detections": boxes,
        "front/semantic/label_info": lambda k: LabelInfo(bundle=f"b{k}", names=["road"]),
        "/diagnostics": lambda k: DiagnosticArray(),
        "front/label": image,
    }
    profiles = {f"front/{topic.name}": topic for topic in TOPICS} | {"/diagnostics": DIAGNOSTICS}
    publishers = {
        name: node.create_publisher(profiles[name].msgtype, name, profiles[name].qos)
        for name in made
    }
    label = publishers["front/label"]
    end = time.monotonic() + DEADLINE
    while not all(each.get_subscription_count() for each in publishers.values()):
        assert time.monotonic() < end
        time.sleep(0.01)
    # Publishers are announced in the order of their making: where the last one's message is
    # acknowledged, the recorder knows all of them.
    label.publish(image(0))
    assert label.wait_for_all_acked(Duration(seconds=DEADLINE))
    started = time.time_ns()
    sent: dict[str, list[Any]] = {name: [] for name in made}
    for index in range(1, 101):
        # A burst of at most half a queue, so that none overflows.
        for name, make in made.items():
            if index > profiles[name].depth // 2:
                continue
            message = make(index)
            sent[name].append(message)
            publishers[name].publish(message)
    assert label.wait_for_all_acked(Duration(seconds=DEADLINE))
    printed = finish(process, number)
    assert process.returncode == 0
    with AnyReader([output]) as reader:
        kept: dict[str, list[bytes]] = {}
        for connection, at, data in reader.messages():
            kept.setdefault(connection.topic, []).append(data)
            sooner = connection.topic in ("/front/label", "/diagnostics")
            assert sooner or started < at < time.time_ns()
            reader.deserialize(data, connection.msgtype)
    assert set(kept) == {f"/{name.lstrip('/')}" for name in made}
    assert f"recorded {sum(map(len, kept.values()))} messages" in printed
    # It hears itself, too.
    kept["/diagnostics"] = [each for each in kept["/diagnostics"] if b"gosvae_record" not in each]
    for name in made:
        # Compared as messages: padding bytes between fields may hold anything.
        msgtype = profiles[name].msgtype
        last = kept[f"/{name.lstrip('/')}"][-len(sent[name]) :]
        assert [deserialize_message(data, msgtype) for data in last] == sent[name]
    metadata = yaml.safe_load((output / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    assert (information["version"], information["storage_identifier"]) == (9, "mcap")
    qos = {
        each["topic_metadata"]["name"]: each["topic_metadata"]["offered_qos_profiles"][0]
        for each in information["topics_with_message_count"]
    }
    assert qos["/front/semantic/label_info"]["durability"] == "transient_local"
    assert qos["/front/image_raw/gosvae"]["reliability"] == "best_effort"


def test_labels_are_recorded_in_each_form_that_is_played() -> None:
    played = {(name, kind) for name, kind, role in _BESIDE_IMAGES if role == "label"}
    assert played <= {(topic.name, type_name(topic.msgtype)) for topic in TOPICS}


@pytest.mark.parametrize("side", ["tx", "rx"])
def test_a_side_listens_to_its_own_topics_only(node: Node, tmp_path: Path, side: str) -> None:
    process = record(tmp_path / "bag", side=side)
    wait_for_start(process)
    names = {f"/camera/{topic.name}": topic.side for topic in TOPICS} | {"/diagnostics": side}

    def heard() -> set[str]:
        return {name for name in names if node.count_subscribers(name)}

    end = time.monotonic() + DEADLINE
    while heard() != {name for name, of in names.items() if of == side}:
        assert time.monotonic() < end, heard()
        time.sleep(0.01)
    finish(process, signal.SIGINT)
    assert process.returncode == 0


def test_a_side_that_there_is_not_is_refused(tmp_path: Path) -> None:
    process = record(tmp_path / "bag", side="up")
    assert "side is 'up'; it can be both, tx, rx" in finish(process)
    assert process.returncode == 1


def test_empty_recording_is_a_bag(tmp_path: Path) -> None:
    process = record(tmp_path / "bag")
    wait_for_start(process)
    finish(process, signal.SIGINT)
    assert process.returncode == 0
    assert (tmp_path / "bag" / "metadata.yaml").exists()
    assert (tmp_path / "bag" / "bag.mcap").read_bytes().endswith(b"\x89MCAP0\r\n")


def last_chunks(file: Path) -> tuple[int, int]:
    """Return how many whole chunks a file holds that is not finished, and the last one's time."""
    data = file.read_bytes()
    place, chunks, last = 8, 0, 0
    while place + 9 <= len(data):
        operation, length = data[place], int.from_bytes(data[place + 1 : place + 9], "little")
        if place + 9 + length > len(data):
            break
        if operation == 6:
            chunks += 1
            last = int.from_bytes(data[place + 17 : place + 25], "little")
        place += 9 + length
    return chunks, last


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_a_recording_that_is_killed_loses_its_last_second_alone(
    node: Node, tmp_path: Path, seconds: float
) -> None:
    process = record(tmp_path / "bag", cameras=["front"])
    wait_for_start(process)
    publisher = node.create_publisher(TokenPacket, "front/image_raw/gosvae", TOPICS[0].qos)
    deadline = time.monotonic() + DEADLINE
    while not publisher.get_subscription_count():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # 15 packets of 200 bytes a second are 24 kbit/s: a chunk of 1 MiB takes minutes.
    for index in range(round(15 * seconds)):
        publisher.publish(packet(index))
        time.sleep(1 / 15)
    killed = time.time_ns()
    process.kill()
    process.wait()
    (file,) = (tmp_path / "bag").glob("*.mcap")
    chunks, last = last_chunks(file)
    assert chunks >= seconds and killed - last < 1_000_000_000
    with reading(tmp_path / "bag") as reader:
        found = [each for each in packets(reader) if each.camera == "front"]
    assert len(found) > (seconds - 1) * 10
    assert killed - found[-1].time < 1_000_000_000
    assert any("was cut off" in note for note in inspect(tmp_path / "bag").values["notes"])


def test_diagnostics_tell_the_publishers_of_each_topic(node: Node, tmp_path: Path) -> None:
    told: dict[str, dict[str, str]] = {}

    def take(message: DiagnosticArray) -> None:
        for status in message.status:
            told[status.name] = {pair.key: pair.value for pair in status.values}

    node.create_subscription(DiagnosticArray, "/diagnostics", take, 10)
    process = record(tmp_path / "bag", cameras=["front", "rear"])
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    name, key = "gosvae_record: front", "publishers of semantic/mask"
    publishers = []
    for count in ("0", "1", "2"):
        end = time.monotonic() + DEADLINE
        while told.get(name, {}).get(key) != count:
            assert time.monotonic() < end, told
            executor.spin_once(timeout_sec=0.1)
        publishers.append(node.create_publisher(Image, "front/semantic/mask", TOPICS[2].qos))
    assert told["gosvae_record: rear"][key] == "0"
    finish(process, signal.SIGINT)


def test_output_that_exists_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output, words in (
        (tmp_path, "exists already"),
        (tmp_path / "file" / "bag", "cannot be written"),
    ):
        process = record(output)
        printed = finish(process)
        assert process.returncode == 1
        fatal = [line for line in printed.splitlines() if line.startswith("[FATAL]")]
        assert len(fatal) == 1 and str(output) in fatal[0] and words in fatal[0]
        assert "Traceback" not in printed


def test_message_types_hash_as_ros_has_them() -> None:
    share = Path(get_package_share_directory("gosvae_msgs"), "msg")
    types = message_types()
    for name in ("TokenPacket", "Feedback", "LabelInfo"):
        full = f"gosvae_msgs/msg/{name}"
        hashes = json.loads((share / f"{name}.json").read_text())["type_hashes"]
        assert types.hash_rihs01(full) in [
            each["hash_string"] for each in hashes if each["type_name"] == full
        ]
