"""Quota, gateway, holder and monitor, each by itself: no Ray, no link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from gosvae_codec import Decoder, Encoder, Header, ModelBundle, Packet
from gosvae_codec.testing import write_tiny_bundle
from gosvae_fleet import gateway as gateways
from gosvae_fleet.gateway import Gateway
from gosvae_fleet.holder import Holder
from gosvae_fleet.network import Network
from gosvae_fleet.quota import Quota
from gosvae_fleet.vehicles import Vehicle
from gosvae_msgs.msg import Feedback


def test_quota_lets_pass_a_second_at_once_and_then_its_rate() -> None:
    now = [0.0]
    quota = Quota(10, 8, lambda: now[0])
    assert [quota.problem(50) for _ in range(11)] == [""] * 10 + ["packets"]
    now[0] = 0.5
    assert [quota.problem(50) for _ in range(6)] == [""] * 5 + ["packets"]
    now[0] = 10.0
    assert [quota.problem(400) for _ in range(4)] == ["", "", "bytes", "bytes"]


class Payload(bytes):
    def to_bytes(self) -> bytes:
        return bytes(self)


class Sample:
    def __init__(self, key: str, data: bytes) -> None:
        self.key_expr, self.payload = key, Payload(data)


class Session:
    """Stands for one of Zenoh: what is subscribed to can be called, what is put is kept."""

    def __init__(self) -> None:
        self.subscribers: dict[str, Callable[[Any], None]] = {}
        self.put: dict[str, list[bytes]] = {}

    def liveliness(self) -> Session:
        return self

    def declare_subscriber(self, key: str, call: Any, history: bool = False) -> Session:
        self.subscribers[key] = call
        return self

    def declare_publisher(self, key: str, **_: Any) -> Any:
        kept = self.put.setdefault(key, [])
        return type("Publisher", (), {"put": staticmethod(kept.append)})

    def undeclare(self) -> None:
        pass

    def send(self, vehicle: str, data: bytes) -> None:
        key = f"gosvae/{vehicle}/camera/image_raw/gosvae"
        self.subscribers[key](Sample(key, data))


class Calls:
    def __init__(self) -> None:
        self.pushed: list[tuple[int, gateways.Packets]] = []
        self.changes: list[tuple[int, bool]] = []
        self.accept = True

    def push(self, holder: int, packets: gateways.Packets) -> bool:
        self.pushed.append((holder, packets))
        return self.accept

    def changed(self) -> list[tuple[int, bool]]:
        changes, self.changes = self.changes, []
        return changes

    def holders(self, vehicle: str) -> set[int]:
        return {holder for holder, packets in self.pushed if vehicle in {v for v, *_ in packets}}

    def count(self) -> int:
        return sum(len(packets) for _, packets in self.pushed)


def settle(condition: Callable[[], Any]) -> None:
    for _ in range(500):
        if condition():
            return
        asyncio.run(asyncio.sleep(0.01))
    raise AssertionError("waited in vain")


@pytest.fixture
def made() -> Any:
    session, calls = Session(), Calls()
    fleet = [Vehicle(f"v{index:02d}", packets_per_s=20) for index in range(20)]
    gateway = Gateway(session, fleet, calls, 2)
    yield gateway, session, calls
    gateway.close()


def test_a_vehicle_over_its_quota_costs_nobody_else_a_packet(made: Any) -> None:
    gateway, session, calls = made
    for _ in range(2000):
        session.send("v00", b"x" * 100)
    for index in range(1, 20):
        session.send(f"v{index:02d}", b"y")
    session.send("v01", b"z" * 1401)
    settle(lambda: calls.count() >= 39)
    report = gateway.report()
    assert 1900 <= report.rejected["v00"]["packets"] <= 1980
    assert report.rejected["v01"] == {"size": 1}
    assert set(report.rejected) == {"v00", "v01"}
    assert all(report.packets[f"v{index:02d}"] == 1 for index in range(1, 20))
    assert [text for text in report.events if text.startswith("v00")] == [
        "v00: over its quota of 20 packets/s (packets_per_s); dropped"
    ]


def test_streams_of_a_holder_that_died_go_to_the_other_and_back(made: Any) -> None:
    gateway, session, calls = made
    names = [f"v{index:02d}" for index in range(20)]

    def routes() -> dict[str, set[int]]:
        calls.pushed.clear()
        for name in names:
            session.send(name, b"x")
        settle(lambda: calls.count() == len(names))
        return {name: calls.holders(name) for name in names}

    before = routes()
    assert {tuple(each) for each in before.values()} == {(0,), (1,)}
    calls.changes = [(0, False)]
    settle(lambda: gateway.report().holders == [1])
    assert set(map(tuple, routes().values())) == {(1,)}
    calls.changes = [(0, True)]
    settle(lambda: gateway.report().holders == [0, 1])
    assert routes() == before


def test_packets_that_a_holder_cannot_take_are_counted(made: Any) -> None:
    gateway, session, calls = made
    calls.accept = False
    session.send("v03", b"x")
    settle(lambda: gateway.report().rejected.get("v03") == {"holder is behind": 1})


class Remote:
    """A network in this process, which waits for `free` before it answers."""

    def __init__(self, path: Path) -> None:
        self.network = Network(str(path), ("cpu",), 1, 1)
        self.free = asyncio.Event()
        self.free.set()
        self.fails = 0

    async def remote(self, frames: Any) -> Any:
        await self.free.wait()
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the replica died\nand more")
        return self.network(frames)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_tiny_bundle(folder / f"tiny{seed}", seed) for seed in range(3)]


class Bench:
    """A holder of two bundles, and vehicles of all three."""

    def __init__(self, paths: list[Path]) -> None:
        self.session = Session()
        self.bundles = [ModelBundle.load(path) for path in paths]
        known = self.bundles[:2]
        self.networks = {each.fingerprint: Remote(each.path) for each in known}
        self.holder = Holder(self.session, known, self.networks, batch=1, calls=1)
        self.rng = np.random.default_rng(0)

    def packets(self, encoder: Encoder, second: int) -> list[Packet]:
        return list(
            encoder.encode(self.rng.integers(0, 256, (64, 96, 3), np.uint8), Header(second, 0, "c"))
        )

    async def push(self, vehicle: str, *data: bytes) -> None:
        await self.holder.push([(vehicle, "camera", each) for each in data])
        for _ in range(20):
            await asyncio.sleep(0)

    def masks(self, vehicle: str) -> list[Image]:
        kept = self.session.put[f"gosvae/{vehicle}/camera/semantic/mask"]
        return [deserialize_message(each, Image) for each in kept]

    def answer(self, vehicle: str) -> Feedback:
        kept = self.session.put[f"gosvae/{vehicle}/camera/image_raw/gosvae/feedback"]
        return deserialize_message(kept[-1], Feedback)

    async def figures(self) -> dict[str, Any]:
        return {each.vehicle: each for each in (await self.holder.report()).streams}


def run(test: Callable[[Bench], Any], paths: list[Path]) -> None:
    async def body() -> None:
        await test(Bench(paths))

    asyncio.run(body())


def test_masks_are_those_of_the_decoder_and_feedback_acknowledges(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        for index, vehicle in enumerate(("v01", "v02")):  # each with its own bundle
            bundle = bench.bundles[index]
            packets = bench.packets(Encoder(bundle), 7)
            await bench.push(vehicle, *(each.to_bytes() for each in packets))
            (mask,) = bench.masks(vehicle)
            wanted = Decoder(bundle).decode(packets).mask
            assert (np.array(mask.data, np.uint8).reshape(64, 96) == wanted).all()
            assert (mask.header.stamp.sec, mask.header.frame_id) == (7, "c")
            answer = bench.answer(vehicle)
            assert answer.has_acknowledged and answer.acknowledged == packets[0].sequence
            assert answer.fingerprint == bundle.fingerprint

    run(test, paths)


def test_newest_frame_wins_and_skipped_ones_can_be_referred_to(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        network = bench.networks[bench.bundles[0].fingerprint]
        network.free.clear()
        encoder = Encoder(bench.bundles[0])
        for second in range(1, 6):
            packets = bench.packets(encoder, second)
            await bench.push("v01", *(each.to_bytes() for each in packets))
            assert bench.answer("v01").acknowledged == packets[0].sequence
            encoder.acknowledge(packets[0].sequence)
        network.free.set()
        await bench.push("v01")
        assert [each.header.stamp.sec for each in bench.masks("v01")] == [1, 5]
        figures = (await bench.figures())["v01"]
        assert (figures.masks, figures.skipped, figures.without_reference) == (2, 3, 0)

    run(test, paths)


def test_network_that_dies_costs_one_frame(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        bench.networks[bench.bundles[0].fingerprint].fails = 1
        encoder = Encoder(bench.bundles[0])
        for second in (1, 2):
            await bench.push("v01", *(e.to_bytes() for e in bench.packets(encoder, second)))
        assert [each.header.stamp.sec for each in bench.masks("v01")] == [2]
        report = await bench.holder.report()
        assert report.streams[0].failed == 1
        assert report.events == ["network of bundle: the replica died"]

    run(test, paths)


def test_fresh_holder_asks_for_an_intra_frame(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        encoder = Encoder(bench.bundles[0])
        first = bench.packets(encoder, 1)
        encoder.acknowledge(first[0].sequence)
        predicted = bench.packets(encoder, 2)
        assert predicted[0].reference
        await bench.push("v01", *(each.to_bytes() for each in predicted))
        answer = bench.answer("v01")
        assert answer.request_intra and not answer.has_acknowledged
        assert (await bench.figures())["v01"].without_reference == 1

    run(test, paths)


def test_what_is_no_packet_is_counted_by_reason_and_others_are_served(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        (good,) = bench.packets(Encoder(bench.bundles[0]), 1)
        damaged = bytearray(good.to_bytes())
        damaged[-1] ^= 1
        foreign = bench.packets(Encoder(bench.bundles[2]), 1)[0].to_bytes()
        await bench.push("v01", b"", b"nonsense", bytes(damaged), foreign)
        await bench.push("v02", good.to_bytes())
        assert len(bench.masks("v02")) == 1
        figures = await bench.figures()
        assert figures["v01"].rejected == {"PacketError": 3, "FingerprintError": 1}
        assert figures["v02"].rejected == {}

    run(test, paths)


def test_unknown_fingerprint_is_told_in_one_line_on_both_sides(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        encoder = Encoder(bench.bundles[2])
        for second in range(3):
            await bench.push("v01", bench.packets(encoder, second)[0].to_bytes())
        await asyncio.sleep(0.5)  # until feedback is due
        (line,) = (await bench.holder.report()).events
        theirs, ours = (f"{bench.bundles[index].fingerprint:016x}" for index in (2, 0))
        assert line.startswith("v01/camera: ") and theirs in line and ours in line
        assert "\n" not in line
        # The transmitter compares it with its own, and says so on /diagnostics.
        assert bench.answer("v01").fingerprint == bench.bundles[0].fingerprint

    run(test, paths)
