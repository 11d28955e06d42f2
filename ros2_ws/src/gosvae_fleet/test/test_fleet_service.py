"""The whole service on Ray, with simulated vehicles over a router, and what is killed in it.

All packets are sealed.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")
pytest.importorskip("ray", reason="the extra fleet is not installed")

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from gosvae_codec import ModelBundle
from gosvae_codec.keys import generate
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.detections import detections_type
from gosvae_common.errors import UsageError
from gosvae_fleet import keys, link, simulation
from gosvae_fleet.certificates import check_credentials
from gosvae_fleet.demo import Fleet
from gosvae_fleet.monitor import Monitor
from gosvae_fleet.presence import Answering
from gosvae_fleet.service import Service, replica_processes

pytestmark = pytest.mark.slow

NAMES = ["v01", "v02", "v03", "v04"]
OTHERS = ["v05", "v06", "v07", "v08", "v09"]
RECOVERY_SECONDS = 3.0
LOST = 0.2
"""Share of frames that a busy machine may lose: router, vehicles and subscriber share it."""
DEADLINE = 120.0


def write_key(path: Path) -> Path:
    path.write_text(generate()[1])
    path.chmod(0o600)
    return path


class World:
    def __init__(self, folder: Path) -> None:
        tasks = ("semantic", "detection", "depth")
        bundle = write_tiny_bundle(folder / "models" / "tiny", tasks=tasks)
        self.bundle = ModelBundle.load(bundle)
        # Those that do not drive by themselves are known all the same.
        self.fleet = Fleet(folder, [*NAMES, *OTHERS], packets_per_s=50)
        key_file = write_key(folder / "fleet.key")
        settings = self.fleet.settings(bundles=(bundle,), key_file=str(key_file))
        self.service = Service(settings)
        self.fleet.simulate(NAMES, 5.0, "--bundle", str(bundle), "--key-file", str(key_file))
        self.events: list[tuple[str, str]] = []

    def said(self, part: str) -> list[str]:
        """Return what lines of the log begin with, those of a part or of a vehicle's camera."""
        self.events += self.service.state().events
        return [text for name, text in self.events if name == part or text.startswith(f"{part}/")]

    def session(self, name: str) -> Any:
        return link.open_client(self.fleet.endpoint, check_credentials(self.fleet.folder, name))

    def wait(self, condition: Callable[[], Any], seconds: float = DEADLINE) -> float:
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < seconds, f"not after {seconds} s"
            time.sleep(0.02)
        return time.monotonic() - begin

    def all_have_masks(self, since: float) -> bool:
        return self.fleet.masks_since(since) >= set(NAMES)

    def settle(self) -> None:
        begin = time.time()
        self.wait(lambda: self.all_have_masks(begin))

    def recovery(self, process: int) -> float:
        """Kill a process; return the seconds until each vehicle has a mask of a later frame."""
        return self.fleet.recover(process, NAMES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("fleet"))
    try:
        made.wait(lambda: made.all_have_masks(0.0))
        yield made
    finally:
        made.fleet.close()
        made.service.close()


def test_every_frame_becomes_a_mask_and_metrics_say_so(world: World) -> None:
    begin = time.time()
    time.sleep(4.0)
    figures = world.fleet.figures(begin, time.time() - 1.0)
    assert figures["streams"] == len(NAMES) and figures["lost"] < LOST
    monitor = Monitor()
    try:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{monitor.url}/healthz")
        monitor.update(world.service.state())
        assert urllib.request.urlopen(f"{monitor.url}/healthz").read() == b"ok\n"
        text = urllib.request.urlopen(f"{monitor.url}/metrics").read().decode()
    finally:
        monitor.close()
    assert "gosvae_streams 4.0" in text and "gosvae_healthy 1.0" in text
    assert 'gosvae_frames_total{bundle="tiny",camera="camera",vehicle="v01"}' in text
    masks = 'gosvae_results_total{camera="camera",topic="semantic/mask",vehicle="v01"}'
    assert masks in text and 'topic="depth/image"' not in text  # to which nobody listens
    assert 'gosvae_age_ms{camera="camera",quantile="0.95",vehicle="v04"}' in text


def test_boxes_and_depths_are_made_while_somebody_listens(world: World) -> None:
    session = world.session("backend")
    kinds = {"detections": detections_type(), "depth/image": Image}
    arrived: dict[str, list[Any]] = {topic: [] for topic in kinds}

    def take(topic: str, sample: Any) -> None:
        arrived[topic].append(deserialize_message(sample.payload.to_bytes(), kinds[topic]))

    try:
        subscribers = [
            session.declare_subscriber(keys.key("v02", f"camera/{topic}"), partial(take, topic))
            for topic in kinds
        ]
        world.wait(lambda: all(len(each) > 2 for each in arrived.values()))
        for each in subscribers:
            each.undeclare()
        depth = arrived["depth/image"][-1]
        stamp = depth.header.stamp.sec * 10**9 + depth.header.stamp.nanosec
        # The drive's size, and the stamp of a frame that was sent.
        assert ("v02", stamp) in world.fleet.sent
        assert len(depth.data) == 4 * depth.width * depth.height > 4 * 96 * 64
        assert {each.header.frame_id for each in arrived["detections"]} == {"camera"}

        def count() -> tuple[int, int]:
            found = next(e for e in world.service.state().streams if e.vehicle == "v02")
            return found.results["depth/image"], found.results["semantic/mask"]

        def have_stopped() -> bool:
            depths, masks = count()
            world.wait(lambda: count()[1] > masks + 3)
            return count()[0] == depths

        world.wait(have_stopped)
    finally:
        session.close()


def test_wrong_key_and_no_key_have_one_line_on_both_sides(world: World, tmp_path: Path) -> None:
    wrong = str(write_key(tmp_path / "wrong.key"))
    sessions = {name: world.session(name) for name in ("v07", "v08")}
    vehicles = {
        "v07": simulation.Vehicle("v07", sessions["v07"], world.bundle, wrong),
        "v08": simulation.Vehicle("v08", sessions["v08"], world.bundle),
    }
    frame = np.zeros((64, 96, 3), np.uint8)
    try:
        world.wait(lambda: all(link.has_listeners(each.packets) for each in vehicles.values()))

        def is_told() -> bool:
            for each in vehicles.values():
                each.send(frame)
            time.sleep(0.3)
            told = all(world.said(name) for name in vehicles)
            return told and all(each.errors.count for each in vehicles.values())

        world.wait(is_told)
        assert "sealed with key" in world.said("v07")[0] and "fleet.key" in world.said("v07")[0]
        assert "feedback sealed with key" in vehicles["v07"].errors.last
        assert "wrong.key" in vehicles["v07"].errors.last
        assert "packets are not sealed" in world.said("v08")[0]
        assert "expects sealed packets" in vehicles["v08"].errors.last
        state = world.service.state()
        for name, each in vehicles.items():
            assert each.answers == {} and set(state.rejected[name]) == {"SealError"}
            assert "\n" not in world.said(name)[0] + each.errors.last
        assert world.fleet.masks_since(0) == set(NAMES)
    finally:
        for session in sessions.values():
            session.close()


def test_vehicles_change_without_a_restart(world: World) -> None:
    path = world.fleet.vehicles
    content = path.read_text()
    session = world.session("v09")
    try:
        publisher = link.token_publisher(session, keys.packets_key("v09", "camera"))
        world.wait(lambda: link.has_listeners(publisher))
        assert world.service.refresh() == ""
        path.write_text(content.replace("  v09: {}\n", ""))
        assert world.service.refresh() == f"{path} has changed: 8 vehicles"
        world.wait(lambda: not link.has_listeners(publisher))
        path.write_text("vehicles: nobody")
        with pytest.raises(UsageError, match="expected `vehicles:`"):
            world.service.refresh()
        assert world.service.refresh() == ""  # which is said once
        path.write_text(content)
        assert "9 vehicles" in world.service.refresh()
        world.wait(lambda: link.has_listeners(publisher))
        world.settle()
    finally:
        path.write_text(content)
        session.close()


def test_killed_replica_is_not_missed(world: World) -> None:
    world.settle()
    assert world.recovery(replica_processes(world.bundle.fingerprint)[0]) < RECOVERY_SECONDS
    world.wait(lambda: len(replica_processes(world.bundle.fingerprint)) == 2)


def test_streams_of_a_killed_holder_are_back(world: World) -> None:
    world.settle()
    before = world.service.state()
    busy = max((each for each in before.holders if each), key=lambda each: len(each.streams))
    assert busy.streams
    assert world.recovery(busy.process) < RECOVERY_SECONDS
    world.wait(lambda: not world.service.state().problem)
    world.wait(lambda: world.service.state().gateway.holders == [0, 1])
    world.settle()


def test_killed_gateway_comes_back(world: World) -> None:
    world.settle()
    gateway = world.service.state().gateway
    assert gateway is not None
    world.recovery(gateway.process)


def test_flood_and_forgeries_are_dropped_and_others_served(world: World) -> None:
    session = world.session("v05")
    try:
        publisher = link.token_publisher(session, keys.packets_key("v05", "camera"))
        forged = link.token_publisher(session, keys.packets_key("v01", "camera"))
        world.wait(lambda: link.has_listeners(publisher))
        begin = time.time()
        end = time.monotonic() + 5.0
        while time.monotonic() < end:  # 100 times 50 packets/s
            for _ in range(50):
                publisher.put(b"no packet")
                forged.put(b"nor this")
            time.sleep(0.01)
        world.wait(lambda: len(world.service.state().rejected.get("v05", {})) == 2)
    finally:
        session.close()
    rejected = world.service.state().rejected
    assert rejected["v05"]["packets"] > 100 and rejected["v05"]["PacketError"] > 10
    assert "PacketError" not in rejected.get("v01", {})
    figures = world.fleet.figures(begin, time.time() - 1.0)
    assert figures["streams"] == len(NAMES) and figures["lost"] < LOST


def test_names_and_cameras_taken_twice_have_one_line_each(world: World) -> None:
    backend = world.session("backend")
    sessions = [world.session("v06") for _ in range(2)]
    said: list[str] = []
    other = Answering(backend, "downlink", said.append)
    monitor = Monitor()
    try:
        tokens = [
            each.liveliness().declare_token(keys.alive_key("v06", str(each.info.zid())))
            for each in sessions
        ]
        other.answer([("v05", "camera")])

        def lines() -> list[str]:
            found = [text for text in world.said("gateway") if "v05/" in text or "v06" in text]
            return sorted(text for text in found if "quota" not in text)

        world.wait(lambda: other.twice() and len(lines()) >= 2)
        cameras, name = lines()
        assert name.startswith("vehicle v06 is connected 2 times")
        assert cameras.startswith("v05/camera: answered by downlink-")
        assert " and by gateway-" in cameras and said == [cameras]
        monitor.update(world.service.state())
        _, _, text = monitor.answer("/metrics")
        assert b'gosvae_answered_twice{camera="camera",vehicle="v05"} 1.0' in text
        assert tokens
    finally:
        monitor.close()
        for each in (*sessions, backend):
            each.close()


def test_impossible_settings_have_one_line(world: World) -> None:
    with pytest.raises(UsageError, match="0 holders, 2 to 2 replicas, batch 1: give one"):
        Service(world.fleet.settings(bundles=(world.bundle.path,), holders=0))
    path = world.bundle.path
    with pytest.raises(UsageError, match="have one fingerprint"):
        Service(world.fleet.settings(bundles=(path, path / ".." / path.name)))
