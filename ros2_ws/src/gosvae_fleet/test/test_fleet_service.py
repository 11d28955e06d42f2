"""The whole service on Ray, with simulated vehicles over a router, and what is killed in it."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")
pytest.importorskip("ray", reason="the extra fleet is not installed")

from gosvae_codec import ModelBundle
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.errors import UsageError
from gosvae_fleet import keys, link
from gosvae_fleet.certificates import check_credentials
from gosvae_fleet.demo import Fleet
from gosvae_fleet.monitor import Monitor
from gosvae_fleet.service import Service, replica_processes

pytestmark = pytest.mark.slow

NAMES = ["v01", "v02", "v03", "v04"]
RECOVERY_SECONDS = 3.0
DEADLINE = 60.0


class World:
    def __init__(self, folder: Path) -> None:
        bundle = write_tiny_bundle(folder / "models" / "tiny")
        self.bundle = ModelBundle.load(bundle)
        # v05 and v06 are known, and do not drive by themselves.
        self.fleet = Fleet(folder, [*NAMES, "v05", "v06"], packets_per_s=50)
        self.service = Service(self.fleet.settings(bundles=(bundle,)))
        self.fleet.simulate(NAMES, 5.0, "--bundle", str(bundle))
        self.rejected_before: dict[str, int] = {}

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
        os.kill(process, signal.SIGKILL)
        begin = time.time()
        return self.wait(lambda: self.all_have_masks(begin))


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
    assert figures["streams"] == len(NAMES) and figures["lost"] < 0.05
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
    assert 'gosvae_masks_total{bundle="tiny",camera="camera",vehicle="v01"}' in text
    assert 'gosvae_mask_age_ms{camera="camera",quantile="0.95",vehicle="v04"}' in text


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
    session = link.open_client(world.fleet.endpoint, check_credentials(world.fleet.folder, "v05"))
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
    # Router, flood and subscriber share this process: a busy machine loses some datagrams.
    assert figures["streams"] == len(NAMES) and figures["lost"] < 0.2


def test_name_taken_twice_has_one_line(world: World) -> None:
    credentials = check_credentials(world.fleet.folder, "v06")
    sessions = [link.open_client(world.fleet.endpoint, credentials) for _ in range(2)]
    try:
        tokens = [
            each.liveliness().declare_token(keys.alive_key("v06", str(each.info.zid())))
            for each in sessions
        ]
        events: list[tuple[str, str]] = []

        def is_told() -> bool:
            events.extend(world.service.state().events)
            return bool(events)

        world.wait(is_told)
        ((part, text),) = events
        assert part == "gateway" and text.startswith("vehicle v06 is connected 2 times")
        assert tokens
    finally:
        for each in sessions:
            each.close()


def test_impossible_settings_have_one_line(world: World) -> None:
    with pytest.raises(UsageError, match="0 holders, 2 to 2 replicas, batch 1: give one"):
        Service(world.fleet.settings(bundles=(world.bundle.path,), holders=0))
    path = world.bundle.path
    with pytest.raises(UsageError, match="have one fingerprint"):
        Service(world.fleet.settings(bundles=(path, path / ".." / path.name)))
