"""Quota, gateway, holder and monitor, each by itself: no Ray, no link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zenoh", reason="the extra uplink is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from gosvae_codec import Decoder, Encoder, Header, ModelBundle, Packet
from gosvae_codec.keys import KeyFile, generate
from gosvae_codec.sealing import SEAL_BYTES, PacketSealer
from gosvae_codec.testing import write_tiny_bundle
from gosvae_codec.unpacking import Unpacker
from gosvae_common.boxes import boxes_of
from gosvae_common.detections import detections_type, to_detections
from gosvae_fleet import gateway as gateways
from gosvae_fleet.gateway import Gateway
from gosvae_fleet.holder import Holder
from gosvae_fleet.network import Job, Network
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
        self.wanted = {"gosvae/v01/camera/semantic/mask", "gosvae/v02/camera/semantic/mask"}

        self.info = self

    def zid(self) -> str:
        return "af"

    def liveliness(self) -> Session:
        return self

    def declare_subscriber(self, key: str, call: Any, history: bool = False) -> Any:
        self.subscribers[key] = call
        return type("Subscriber", (), {"undeclare": lambda _: self.subscribers.pop(key)})()

    def declare_token(self, key: str) -> Any:
        return self.declare_subscriber(key, None)

    def declare_publisher(self, key: str, **_: Any) -> Any:
        return Publisher(self, key)

    def send(self, vehicle: str, data: bytes) -> None:
        key = f"gosvae/{vehicle}/camera/image_raw/gosvae"
        if call := self.subscribers.get(key):
            call(Sample(key, data))


class Publisher:
    def __init__(self, session: Session, key: str) -> None:
        self._session, self._key = session, key
        self.put = session.put.setdefault(key, []).append

    @property
    def matching_status(self) -> Any:
        return type("Status", (), {"matching": self._key in self._session.wanted})


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
    fleet = [Vehicle(name, packets_per_s=20) for name in NAMES]
    gateway = Gateway(session, fleet, calls, 2)
    yield gateway, session, calls
    gateway.close()


NAMES = [f"v{index:02d}" for index in range(20)]


def test_a_vehicle_over_its_quota_costs_nobody_else_a_packet(made: Any) -> None:
    gateway, session, calls = made
    for _ in range(200):
        session.send("v00", b"x" * 100)
    for index in range(1, 20):
        session.send(f"v{index:02d}", b"y")
    session.send("v01", b"z" * 1401)
    settle(lambda: calls.count() >= 39)
    report = gateway.report()
    assert 160 <= report.rejected["v00"]["packets"] <= 180
    assert report.rejected["v01"] == {"size": 1}
    assert set(report.rejected) == {"v00", "v01"}
    assert all(report.packets[f"v{index:02d}"] == 1 for index in range(1, 20))
    assert [text for text in report.events if text.startswith("v00")] == [
        "v00: over its quota of 20 packets/s (packets_per_s); dropped"
    ]


def test_a_vehicle_that_floods_is_not_listened_to_for_a_while(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, session, calls = made
    monkeypatch.setattr(gateways, "PAUSE_SECONDS", 0.5)
    key = "gosvae/v00/camera/image_raw/gosvae"
    for _ in range(300):
        session.send("v00", b"x")
    settle(lambda: key not in session.subscribers)
    report = gateway.report()
    passed = report.packets["v00"]
    assert "floods, with over 10 times its quota" in report.events[-1]
    session.send("v00", b"x")
    session.send("v01", b"x")
    settle(lambda: calls.count() == passed + 1)
    report = gateway.report()
    assert 200 < report.rejected["v00"]["packets"] < 300 and report.packets["v00"] == passed < 25
    settle(lambda: key in session.subscribers)
    session.send("v00", b"x")
    settle(lambda: gateway.report().packets["v00"] == passed + 1)
    # One that leaves meanwhile does not come back.
    for _ in range(300):
        session.send("v00", b"x")
    settle(lambda: key not in session.subscribers)
    gateway.serve([Vehicle("v01", packets_per_s=20)])
    asyncio.run(asyncio.sleep(0.8))
    assert key not in session.subscribers


def test_streams_of_a_holder_that_died_go_to_the_other_and_back(made: Any) -> None:
    gateway, session, calls = made

    def routes() -> dict[str, set[int]]:
        calls.pushed.clear()
        for name in NAMES:
            session.send(name, b"x")
        settle(lambda: calls.count() == len(NAMES))
        return {name: calls.holders(name) for name in NAMES}

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


def test_vehicles_change_while_others_go_on(made: Any) -> None:
    gateway, session, _ = made
    kept = {name: session.subscribers[f"gosvae/{name}/camera/image_raw/gosvae"] for name in NAMES}
    fleet = [Vehicle("v00"), Vehicle("v01", packets_per_s=1), Vehicle("v30", ("front",))]
    gateway.serve([Vehicle("v00", packets_per_s=20), *fleet[1:]])
    keys = [key.removeprefix("gosvae/") for key in session.subscribers if "*" not in key]
    packets = [key for key in keys if key.endswith("/gosvae")]
    assert sorted(packets) == [
        "v00/camera/image_raw/gosvae",
        "v01/camera/image_raw/gosvae",
        "v30/front/image_raw/gosvae",
    ]
    # The tokens by which others learn who answers.
    assert {key for key in keys if "answered" in key} == {
        f"{key}/answered/gateway-af" for key in packets
    }
    assert session.subscribers["gosvae/v00/camera/image_raw/gosvae"] is kept["v00"]
    session.send("v01", b"x")
    session.send("v01", b"x")
    settle(lambda: gateway.report().rejected.get("v01") == {"packets": 1})


class Remote:
    """A network in this process, which waits for `free` before it answers."""

    def __init__(self, path: Path) -> None:
        self.network = Network(str(path), ("cpu",), 1, 1)
        self.free = asyncio.Event()
        self.free.set()
        self.fails = 0
        self.jobs: list[Any] = []

    async def remote(self, jobs: Any) -> Any:
        await self.free.wait()
        self.jobs += jobs
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the replica died\nand more")
        return self.network(jobs)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    tasks = ("semantic", "detection", "depth")
    return [write_tiny_bundle(folder / f"tiny{seed}", seed, tasks=tasks) for seed in range(3)]


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

    def made(self, vehicle: str, topic: str, kind: Any = Image) -> list[Any]:
        kept = self.session.put[f"gosvae/{vehicle}/camera/{topic}"]
        return [deserialize_message(each, kind) for each in kept]

    def masks(self, vehicle: str) -> list[Image]:
        return self.made(vehicle, "semantic/mask")

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


def test_what_somebody_listens_to_is_made_and_nothing_else(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        bundle, network = bench.bundles[0], bench.networks[bench.bundles[0].fingerprint]
        encoder, decoder = Encoder(bundle), Decoder(bundle)

        async def send(second: int, *topics: str) -> Any:
            bench.session.wanted = {f"gosvae/v01/camera/{topic}" for topic in topics}
            packets = bench.packets(encoder, second)
            await bench.push("v01", *(each.to_bytes() for each in packets))
            encoder.acknowledge(packets[0].sequence)
            return decoder.decode(packets)

        wanted = await send(1, "detections", "depth/image", "semantic/confidence")
        (confidence,) = bench.made("v01", "semantic/confidence")
        assert bytes(confidence.data) == wanted.tasks["semantic"].confidence.tobytes()
        (depth,) = bench.made("v01", "depth/image")
        assert (depth.encoding, depth.header.stamp.sec) == ("32FC1", 1)
        assert bytes(depth.data) == wanted.tasks["depth"].depth.tobytes()
        (boxes,) = bench.made("v01", "detections", detections_type())
        result, labels = wanted.tasks["detection"], bundle.tasks["detection"].labels
        assert len(result.boxes)
        assert boxes == to_detections(boxes_of(result, labels), labels, depth.header)
        assert bench.masks("v01") == []
        # Of a frame that nobody wants anything of, no network is asked; later ones refer to it.
        await send(2)
        assert [job.frame.header.sec for job in network.jobs] == [1]
        await send(3, "semantic/mask")
        assert [each.header.stamp.sec for each in bench.masks("v01")] == [3]
        figures = (await bench.figures())["v01"]
        assert (figures.frames, figures.without_reference) == (3, 0)
        made = dict.fromkeys(("detections", "depth/image", "semantic/confidence"), 1)
        assert figures.results == {**made, "semantic/mask": 1}

    run(test, paths)


def test_frames_of_a_batch_get_what_is_wanted_of_each(paths: list[Path]) -> None:
    bundle = ModelBundle.load(paths[0])
    network = Network(str(paths[0]), ("cpu",), 1, 3)
    unpacker = Unpacker(bundle)
    rng = np.random.default_rng(1)
    frames = [
        unpacker.unpack(Encoder(bundle).encode(rng.integers(0, 256, (64, 96, 3), np.uint8)))
        for _ in range(4)
    ]
    topics = [["semantic/mask"], ["detections", "depth/image"], [], ["semantic/mask"]]
    made = network([Job(*each) for each in zip(frames, topics, strict=True)])
    assert [list(each) for each in made] == topics
    alone = Network(str(paths[0]), ("cpu",), 1, 1)
    kinds = {"semantic/mask": Image, "detections": detections_type(), "depth/image": Image}
    for each, frame in zip(made, frames, strict=True):
        (single,) = alone([Job(frame, list(each))])
        for topic, data in each.items():  # as messages, since padding of CDR is not defined
            wanted = deserialize_message(single[topic], kinds[topic])
            assert deserialize_message(data, kinds[topic]) == wanted


def test_diagnostics_are_in_the_words_of_a_receiver(paths: list[Path]) -> None:
    async def test(bench: Bench) -> None:
        (packet,) = bench.packets(Encoder(bench.bundles[0]), 1)
        await bench.push("v01", packet.to_bytes())
        await asyncio.sleep(0.2)
        (data,) = bench.session.put["gosvae/v01/diagnostics"]
        (status,) = deserialize_message(data, DiagnosticArray).status
        assert status.name == "gosvae_fleet: gosvae/v01/camera"
        assert (status.level, status.message) == (b"\0", "receiving")
        values = {pair.key: pair.value for pair in status.values}
        assert float(values["bytes/frame"]) == packet.serialized_size()
        assert values["made"] == "semantic/mask"
        await bench.push("v01", b"nonsense")
        (line,) = (await bench.holder.report()).events
        assert (await bench.figures())["v01"].problem in line

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
        assert (figures.frames, figures.skipped, figures.without_reference) == (2, 3, 0)

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


def test_keys_are_replaced_while_masks_go_on(paths: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "fleet.key"

    def write(*lines: str) -> None:
        new = tmp_path / "new"
        new.write_text("\n".join(lines))
        new.chmod(0o600)
        new.replace(path)

    async def test(bench: Bench) -> None:
        (_, old), (_, new) = generate(), generate()
        write(old)
        bundle = bench.bundles[0]
        holder = Holder(bench.session, [bundle], bench.networks, keys=KeyFile(path))
        bench.holder = holder
        vehicle = tmp_path / "vehicle.key"
        seconds = iter(range(1, 100))

        async def is_served(line: str) -> bool:
            vehicle.write_text(line)
            vehicle.chmod(0o600)
            before = len(bench.masks("v01")) if next(seconds) > 1 else 0
            sealer, encoder = PacketSealer(KeyFile(vehicle)), Encoder(bundle)
            encoder.reserved = SEAL_BYTES
            packets = [sealer.seal(each) for each in bench.packets(encoder, next(seconds))]
            await bench.push("v01", *(each.to_bytes() for each in packets))
            return len(bench.masks("v01")) > before

        async def changed() -> str:
            for _ in range(200):
                if events := (await holder.report()).events:
                    return " ".join(events)
                await asyncio.sleep(0.02)
            raise AssertionError("waited in vain")

        assert await is_served(old) and not await is_served(new)
        assert "sealed with key" in await changed()
        write(old, new)
        assert "holds keys" in await changed()
        assert await is_served(new) and await is_served(old)
        write("nonsense")
        assert "line 1: not 64 hex" in await changed()
        assert await is_served(new)

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
