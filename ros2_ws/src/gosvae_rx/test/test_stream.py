"""One camera's stream at the receiver: figures, feedback and findings, without DDS."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gosvae_codec import Decoder, Encoder, Header, MissingReferenceError, ModelBundle
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.diagnostics import Report
from gosvae_common.health import ERROR, EVENTS, OK, STALE, WARN, Judge
from gosvae_common.messages import to_packet_message
from gosvae_msgs.msg import TokenPacket
from gosvae_rx.receiver import Receiver
from gosvae_rx.stream import Conditions, Stream

PARAMETERS = {
    **{name: each[0] for one in Receiver.thresholds for name, each in one.parameters.items()},
    **{f"diagnostics.{name}": level for name, level, _ in EVENTS},
}
NOW = 1000 * 10**9


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    bundle = ModelBundle.load(write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny"))
    # Compiles the kernels, which takes as long as silence needs to be an error.
    Decoder(bundle).decode(Encoder(bundle).encode(np.zeros((64, 96, 3), np.uint8)))
    return bundle


class Link:
    """A transmitter, a stream that receives from it, and a node around that."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.logged: list[str] = []
        self.bundle = bundle
        self.encoder = Encoder(bundle)
        self.stream = Stream(Decoder(bundle), self.logged.append)
        self.rng = np.random.default_rng(0)

    def packets(self, stamp: float = 999.8) -> list[TokenPacket]:
        pixels = self.rng.integers(0, 256, (64, 96, 3), np.uint8)
        header = Header(int(stamp), round(stamp % 1 * 1e9), "optical")
        return [to_packet_message(packet) for packet in self.encoder.encode(pixels, header)]

    def receive(self, message: TokenPacket, now: int = NOW) -> None:
        for frame in self.stream.on_packet(message):
            try:
                decoded = self.stream.decoder.decode(frame.packets)
            except MissingReferenceError as error:
                self.stream.on_error(error)
            else:
                self.stream.on_mask(frame, decoded, 12.0, now)

    def send(self, stamp: float = 999.8, now: int = NOW) -> None:
        for message in self.packets(stamp):
            self.receive(message, now)

    def report(self, **conditions: Any) -> Report:
        defaults = Conditions(
            judge=Judge(Receiver.thresholds, PARAMETERS.__getitem__),
            providers=["cpu"],
            transmitters=1,
            listeners={"semantic": 3},
            dropped=0,
            drop_rate=0.0,
            clock_stands=False,
            explain_silence=lambda: "it sleeps",
        )
        return self.stream.report(defaults._replace(**conditions))


@pytest.fixture
def link(bundle: ModelBundle) -> Link:
    return Link(bundle)


def test_masks_are_counted_and_acknowledged(link: Link) -> None:
    link.send()
    level, text, values = link.report()
    assert (level, text) == (OK, "receiving")
    assert (values["frames"], values["coverage"], values["decode ms p95"]) == (1, 1.0, 12.0)
    assert (values["transmitters"], values["listeners of semantic"]) == (1, 3)
    assert values["version of semantic"] == link.bundle.tasks["semantic"].version[:16]
    assert values["mask age ms p50"] == pytest.approx(200.0)
    feedback = link.stream.feedback()
    assert feedback.has_acknowledged and feedback.acknowledged == 0
    assert (feedback.stream, feedback.fingerprint) == (
        link.encoder.stream,
        link.bundle.fingerprint,
    )
    assert feedback.header.frame_id == "optical"
    assert feedback.mask_age_ms == pytest.approx(200.0)


def test_a_missing_reference_asks_for_an_intra_frame(link: Link) -> None:
    link.packets()
    link.encoder.acknowledge(0)
    link.send()
    feedback = link.stream.feedback()
    assert feedback.request_intra and not feedback.has_acknowledged
    assert link.report().values["without reference"] == 1
    link.encoder.acknowledge(None)
    link.send()
    assert not link.stream.feedback().request_intra


def test_packets_that_cannot_be_used(link: Link, tmp_path: Path) -> None:
    other = ModelBundle.load(write_tiny_bundle(tmp_path / "other", seed=5))
    (message, *_) = Link(other).packets()
    link.receive(message)
    level, text, values = link.report()
    assert level == ERROR and "the transmitter has another bundle" in text
    assert values["sender fingerprint"] == f"{message.fingerprint:016x}"
    for broken in (TokenPacket(), message):
        broken.fingerprint, broken.payload = link.bundle.fingerprint, b"\x00\x01"
        link.receive(broken)
        assert "packets rejected" in link.report().text
    assert link.stream.feedback().packets_rejected == 3
    assert len(link.logged) == 1
    link.send()
    assert link.report().values["frames"] == 1


def test_packets_are_old_only_where_some_were_found_so(link: Link) -> None:
    messages = link.packets()
    for message in messages:
        link.stream.on_packet(message)
    # The first frame is being decoded.
    assert "older" not in link.report().text
    for message in messages:
        link.stream.on_packet(message)
    level, text, _ = link.report()
    assert level == WARN and "older than what was decoded" in text


def test_feedback_is_repeated_while_packets_arrive(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not link.stream.is_feedback_due(0.2)
    link.send()
    assert link.stream.is_feedback_due(0.2)
    link.stream.feedback()
    assert not link.stream.is_feedback_due(0.2)
    begin = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: begin + 1.0)
    assert link.stream.is_feedback_due(0.2)
    monkeypatch.setattr("time.monotonic", lambda: begin + 60.0)
    assert not link.stream.is_feedback_due(0.2)


def test_masks_that_stopped_are_stale(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: begin + 7.0)
    # There never was one.
    assert link.report()[:2] == (ERROR, "no packets for 7 s: it sleeps")
    monkeypatch.setattr("time.monotonic", lambda: begin)
    link.send()
    monkeypatch.setattr("time.monotonic", lambda: begin + 2.0)
    assert link.report().level == WARN
    monkeypatch.setattr("time.monotonic", lambda: begin + 7.2)
    level, text, values = link.report()
    assert level == STALE
    assert text == "the last mask is 7 s old; no packets for 7 s: it sleeps"
    assert values["last mask s"] == pytest.approx(7.2)
    link.send()
    assert link.report().level == OK


def test_frames_without_stamps_have_no_age(link: Link) -> None:
    for _ in range(3):
        link.send(stamp=0.0, now=1795883196 * 10**9)
    level, text, values = link.report()
    assert level == WARN
    assert text.startswith("the camera does not stamp its frames, so the age of masks is unknown")
    assert "ms old" not in text and math.isnan(values["mask age ms p95"])
    assert math.isnan(link.stream.feedback().mask_age_ms)


@pytest.mark.parametrize("stamp", [5.0, 1e9])
def test_some_impossible_ages_are_not_taken_for_slow_decoding(link: Link, stamp: float) -> None:
    for each in (999.8, 999.8, stamp):
        link.send(stamp=each, now=NOW)
    text = link.report().text
    assert "ms old" not in text
    assert ("masks come" in text) == (stamp == 5.0)


def test_old_masks(link: Link) -> None:
    link.send(stamp=997.0)
    level, text, _ = link.report()
    assert level == ERROR
    assert text.startswith("masks are 3000 ms old, of which decoding takes 12 ms")
    link.stream.on_clock_jump()
    assert link.report().level == OK


def test_states_of_the_node(link: Link) -> None:
    assert link.report(explain_silence=None)[:2] == (WARN, "inactive")
    link.send(now=0)
    text = link.report(clock_stands=True).text
    assert text == "use_sim_time is set, but nobody publishes /clock"
