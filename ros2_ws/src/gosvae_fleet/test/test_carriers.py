"""Uplink and downlink with a router between them, a transmitter's topics and a receiver's."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from gosvae_codec import Header, ModelBundle, Packet
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.detections import detections_type
from gosvae_common.messages import from_packet_message, to_packet_message
from gosvae_common.qos import qos_profile
from gosvae_fleet import keys, link, presence
from gosvae_fleet.certificates import CertificateError, check_credentials
from gosvae_fleet.downlink import Downlink
from gosvae_fleet.results import Results
from gosvae_fleet.uplink import Uplink
from gosvae_msgs.msg import Feedback, LabelInfo, TokenPacket

SECONDS = 60.0
PACKET = Packet(Header(3, 4, "front"), 5, 6, 7, 480, 360, 2, 0, 0, 1, b"payload").with_checksum()
VEHICLES = "vehicles: {v01: {}, v02: {cameras: [front, rear/left]}}"


class Link:
    """A vehicle's uplink, the downlink, and a node that stands for transmitter and receiver."""

    def __init__(self, folder: Path, endpoint: str, vehicles: Path) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=87)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.node = rclpy.create_node("probe", context=self.context)
        self.executor.add_node(self.node)
        self.nodes: list[Any] = []
        self.sessions: list[Any] = []
        self.status: dict[str, Any] = {}
        self.vehicles = str(vehicles)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._note, 10)

    def _note(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.status[status.name] = status

    def start(self, kind: Any, **parameters: Any) -> Any:
        given = {"router": self.endpoint, "certificates": str(self.folder), **parameters}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        node = kind(context=self.context, parameter_overrides=overrides)
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def uplink(self) -> Any:
        return self.start(Uplink, vehicle="v02", cameras=["front"])

    def wait(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.executor.spin_once(timeout_sec=0.02)

    def says(self, node: str) -> str:
        return str(self.status[node].message) if node in self.status else ""

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        for node in self.nodes:
            node.close()
        self.executor.shutdown()
        # Their subscriptions would be seen by the nodes of the next test.
        for node in (self.node, *self.nodes):
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def between(
    folder: Path, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Link]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    vehicles = tmp_path / "vehicles.yaml"
    vehicles.write_text(VEHICLES)
    made = Link(folder, endpoint, vehicles)
    yield made
    made.close()


def test_packets_arrive_and_feedback_comes_back(between: Link) -> None:
    uplink, downlink = between.uplink(), between.start(Downlink, vehicles=between.vehicles)
    qos = qos_profile("packets")
    node, base = between.node, "/gosvae/v02/front/image_raw/gosvae"
    arrived: list[TokenPacket] = []
    returned: list[Feedback] = []
    packets = node.create_publisher(TokenPacket, "front/image_raw/gosvae", qos)
    node.create_subscription(TokenPacket, base, arrived.append, qos)
    feedback = node.create_publisher(Feedback, f"{base}/feedback", qos)
    node.create_subscription(Feedback, "front/image_raw/gosvae/feedback", returned.append, qos)
    between.wait(lambda: uplink.session is not None and downlink.session is not None)

    def is_carried() -> bool:
        packets.publish(to_packet_message(PACKET))
        message = Feedback()
        message.header.frame_id = "from the receiver"
        feedback.publish(message)
        return bool(arrived and returned)

    between.wait(is_carried)
    assert from_packet_message(arrived[0]) == PACKET
    assert returned[0].header.frame_id == "from the receiver"
    between.wait(lambda: between.says("gosvae_uplink") == "connected as v02")
    between.wait(lambda: between.says("gosvae_downlink") == "1 vehicles are connected")


def test_downlink_tells_who_answers_its_cameras_too(
    between: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TWICE_SECONDS", 0.2)
    between.start(Downlink, vehicles=between.vehicles)
    backend = link.open_client(between.endpoint, check_credentials(between.folder, "backend"))
    between.sessions.append(backend)
    other = presence.Answering(backend, "gateway")
    other.answer([("v02", "front")])
    between.wait(lambda: "v02/front: answered by" in between.says("gosvae_downlink"))
    told = between.says("gosvae_downlink")
    assert "downlink-" in told and f"gateway-{backend.info.zid()}" in told
    other.answer([])
    between.wait(lambda: between.says("gosvae_downlink") == "0 vehicles are connected")


def test_payload_is_the_cdr_of_the_message_and_nothing_else_passes(between: Link) -> None:
    uplink = between.uplink()
    backend = link.open_client(between.endpoint, check_credentials(between.folder, "backend"))
    between.sessions.append(backend)
    arrived: list[bytes] = []
    backend.declare_subscriber(
        keys.packets_key("v02", "front"), lambda sample: arrived.append(sample.payload.to_bytes())
    )
    packets = between.node.create_publisher(
        TokenPacket, "front/image_raw/gosvae", qos_profile("packets")
    )
    between.wait(lambda: uplink.session is not None)

    def is_carried() -> bool:
        packets.publish(to_packet_message(PACKET))
        return bool(arrived)

    between.wait(is_carried)
    assert Packet.from_bytes(arrived[0]) == PACKET

    def is_rejected() -> bool:
        backend.put(keys.feedback_key("v02", "front"), b"\0\1\0\0nonsense")
        return uplink.errors.count > 0

    between.wait(is_rejected)
    assert "bytes are no Feedback" in uplink.errors.last


def test_masks_of_the_service_become_topics_with_labels(between: Link, tmp_path: Path) -> None:
    bundle = ModelBundle.load(write_tiny_bundle(tmp_path / "models" / "tiny"))
    node, base = between.node, "/gosvae/v02/rear/left/semantic"
    masks: list[Image] = []
    labels: list[LabelInfo] = []
    node.create_subscription(Image, f"{base}/mask", masks.append, qos_profile("sensor_data"))
    node.create_subscription(LabelInfo, f"{base}/label_info", labels.append, qos_profile("latched"))
    given = {"vehicles": between.vehicles, "bundle": str(bundle.path)}
    results = between.start(Results, **given)
    backend = link.open_client(between.endpoint, check_credentials(between.folder, "backend"))
    between.sessions.append(backend)
    mask = Image(height=2, width=3, step=3, encoding="mono8", data=array("B", range(6)))
    mask.header.frame_id = "left"

    def is_carried() -> bool:
        backend.put(keys.mask_key("v02", "rear/left"), serialize_message(mask))
        return bool(masks and labels)

    between.wait(is_carried)
    assert masks[0] == mask
    assert labels[0].fingerprint == bundle.fingerprint
    assert list(labels[0].names) == [label.name for label in bundle.labels.labels]

    def is_rejected() -> bool:
        backend.put(keys.mask_key("v02", "rear/left"), b"\0\1\0\0nonsense")
        return results.errors.count > 0

    between.wait(is_rejected)
    assert "bytes are no Image" in results.errors.last
    between.wait(lambda: between.says("gosvae_results") == "3 cameras")


def test_results_take_from_the_link_what_is_listened_to(between: Link, tmp_path: Path) -> None:
    tasks = ("semantic", "detection")
    bundle = write_tiny_bundle(tmp_path / "models" / "tiny", tasks=tasks)
    node, camera = between.node, "gosvae/v02/front"
    between.start(Results, vehicles=between.vehicles, bundle=str(bundle))
    backend = link.open_client(between.endpoint, check_credentials(between.folder, "backend"))
    between.sessions.append(backend)
    feedback = f"{camera}/image_raw/gosvae/feedback"
    boxes, answers = (
        link.result_publisher(backend, key) for key in (f"{camera}/detections", feedback)
    )
    got: list[Any] = []
    taken = [
        node.create_subscription(kind, f"/{topic}", got.append, qos_profile("sensor_data"))
        for kind, topic in ((detections_type(), f"{camera}/detections"), (Feedback, feedback))
    ]
    between.wait(lambda: all(map(link.has_listeners, (boxes, answers))))
    nobody = link.result_publisher(backend, keys.mask_key("v02", "front"))
    assert not link.has_listeners(nobody)

    def is_carried() -> bool:
        boxes.put(serialize_message(detections_type()()))
        answers.put(serialize_message(Feedback()))
        return len({type(each) for each in got}) == 2

    between.wait(is_carried)
    for each in taken:
        node.destroy_subscription(each)
    between.wait(lambda: not any(map(link.has_listeners, (boxes, answers))))
    # What the service says of a stream is always there.
    told = DiagnosticArray(status=[DiagnosticStatus(name="gosvae_fleet: gosvae/v02/front")])

    def is_told() -> bool:
        backend.put(keys.status_key("v02"), serialize_message(told))
        return "gosvae_fleet: gosvae/v02/front" in between.status

    between.wait(is_told)


def test_nobody_who_listens_is_reported(between: Link) -> None:
    between.uplink()
    between.wait(lambda: "nobody listens to front" in between.says("gosvae_uplink"))


def test_unusable_certificate_is_told_at_the_start(between: Link) -> None:
    with pytest.raises(CertificateError, match=r"v07\.pem: No such file"):
        between.start(Uplink, vehicle="v07")
