"""The sweep's machinery, on streams and drives small enough to check by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_bench import link_sweep as module
from gosvae_bench.link_streams import (
    H264,
    RATE,
    STREAMS,
    Datagram,
    Jpeg,
    Networks,
    Shown,
    Stream,
    Tokens,
)
from gosvae_bench.link_sweep import Drive, cells, judge, plot, simulate, sweep, table
from gosvae_codec import Decoder, Encoder, GosvaeError, ModelBundle
from gosvae_codec.sender import Settings
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.shipped import find_bundle, find_drive
from gosvae_tools.drives import open_source
from gosvae_tools.link.channel import LinkSpec

SIZE = (64, 96)


def mask_of(value: int) -> np.ndarray:
    return np.full(SIZE, value, np.uint8)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return Networks(ModelBundle.load(write_tiny_bundle(tmp_path_factory.mktemp("m") / "tiny")))


@pytest.fixture(scope="module")
def drive() -> Drive:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (4, 6, 3), np.uint8) for _ in range(12)]
    frames = [each.repeat(16, 0).repeat(16, 1) for each in pictures]
    return Drive(frames, [mask_of(index % 2) for index in range(12)])


class Plain(Stream):
    """Frames of one datagram, whose masks hold their index modulo 2; each is acknowledged."""

    def __init__(self) -> None:
        self.said: list[int] = []
        self.reported: list[tuple[int, float]] = []

    def send(self, index: int, time: float) -> list[Datagram]:
        return [Datagram(1000, index)]

    def receive(self, datagram: Datagram, time: float) -> list[Shown]:
        self.said.append(datagram.content)
        return [Shown(datagram.content, mask_of(datagram.content % 2), 1.0)]

    def feedback(self, time: float) -> Datagram | None:
        return Datagram(200, self.said.pop()) if self.said else None

    def on_feedback(self, feedback: Datagram, time: float) -> None:
        self.reported.append((feedback.content, time))


def test_a_perfect_link_costs_its_delay_only(drive: Drive) -> None:
    stream = Plain()
    run = simulate(stream, LinkSpec(delay=0.05), 12)
    assert [time - each.index / RATE for time, each in run.shown] == pytest.approx([0.05] * 12)
    assert [index for index, _ in stream.reported] == list(range(12))
    assert [time - index / RATE for index, time in stream.reported] == pytest.approx([0.1] * 12)
    result = judge(run, drive)
    assert (result["miou"], result["masks"], result["coverage"]) == (1, 1, 1)
    # At each frame the newest mask is the one of the frame before.
    assert result["live_miou"] == 0
    assert result["mask_age_ms"] == {"p50": 50.0, "p95": 50.0}
    assert result["live_age_ms"] == {"p50": 66.7, "p95": 66.7}
    assert result["kbit_per_s"] == 8 * RATE
    # The drive is shorter than a second.
    assert result["peak_kbit_per_s"] == 8 * 12
    assert result["longest_gap_ms"] == 66.7


def test_what_is_lost_is_replaced_by_what_came_before(drive: Drive) -> None:
    run = simulate(Plain(), LinkSpec(), 12)
    run.shown = [each for each in run.shown if each[1].index in (0, 3, 4)]
    result = judge(run, drive)
    # Right: 0, 2, 3, 4, 6, 8, 10 of 0, 0, 0, 1, 0, 0, ... .
    assert result["miou"] == pytest.approx((6 / 11 + 1 / 6) / 2, abs=1e-4)
    assert result["masks"] == 0.25
    assert result["longest_gap_ms"] == pytest.approx(7 / RATE * 1e3, abs=0.1)


def test_no_mask_at_all_is_a_result(drive: Drive) -> None:
    result = judge(simulate(Plain(), LinkSpec(loss=1), 12), drive)
    assert (result["miou"], result["masks"], result["lost"]) == (0, 0, 1)
    assert result["live_miou"] is result["mask_age_ms"]["p50"] is None


def test_tokens_are_the_codecs_own(networks: Networks, drive: Drive) -> None:
    stream = Tokens(networks, drive.frames, None, Settings(levels=1))
    run = simulate(stream, LinkSpec(delay=0.02), 12)
    encoder, decoder = Encoder(networks.bundle), Decoder(networks.bundle)
    for (_, shown), frame in zip(run.shown, drive.frames, strict=True):
        expected = decoder.decode(encoder.encode(frame, levels=1)).mask
        # Remembered logits are of half precision.
        assert (shown.mask == expected).mean() > 0.99
        assert shown.coverage == 1


@pytest.fixture(scope="module")
def street() -> tuple[Networks, Drive]:
    frames = [frame.image for frame in open_source(find_drive()).frames()]
    labels = [np.zeros(frames[0].shape[:2], np.uint8)] * len(frames)
    return Networks(ModelBundle.load(find_bundle(""))), Drive(frames, labels)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_loss_costs_the_frames_that_are_lost_and_no_others(
    street: tuple[Networks, Drive], seed: int
) -> None:
    networks, drive = street
    spec = LinkSpec.parse(f"loss=10% delay=50ms rate=160kbit seed={seed}")
    budget = 0.8 * 160e3
    run = simulate(Tokens(networks, drive.frames, budget, Settings()), spec, len(drive.frames))
    result = judge(run, drive)
    assert result["masks"] > 0.97 * (1 - result["lost"])
    assert 0.8 * budget <= result["kbit_per_s"] * 1e3 <= budget
    assert result["peak_kbit_per_s"] * 1e3 <= budget


@pytest.mark.slow
@pytest.mark.parametrize("rate", [16, 32])
def test_no_second_without_a_mask_on_a_thin_link(street: tuple[Networks, Drive], rate: int) -> None:
    networks, drive = street
    spec = LinkSpec.parse(f"rate={rate}kbit delay=50ms queue=64kB")
    stream = Tokens(networks, drive.frames, spec.rate, Settings())
    result = judge(simulate(stream, spec, len(drive.frames)), drive)
    assert result["longest_gap_ms"] < 1000
    assert 0.8 * rate <= result["kbit_per_s"] and result["peak_kbit_per_s"] <= rate
    assert result["dropped"] == 0


@settings(max_examples=25, deadline=None)
@given(
    loss=st.floats(0, 0.5),
    delay=st.floats(0, 0.3),
    reorder=st.floats(0, 0.5),
    rate=st.none() | st.floats(8e3, 1e6),
    seed=st.integers(0, 100),
    name=st.sampled_from(sorted(STREAMS)),
)
def test_nothing_old_is_shown_after_something_newer(
    networks: Networks,
    drive: Drive,
    name: str,
    loss: float,
    delay: float,
    reorder: float,
    rate: float | None,
    seed: int,
) -> None:
    spec = LinkSpec(loss=loss, delay=delay, reorder=reorder, rate=rate, seed=seed)
    run = simulate(STREAMS[name](networks, drive.frames, rate), spec, len(drive.frames))
    indices = [each.index for _, each in run.shown]
    assert indices == sorted(set(indices))
    assert all(0 < each.coverage <= 1 and each.mask.shape == SIZE for _, each in run.shown)
    assert all(time >= each.index / RATE + delay for time, each in run.shown)


def test_pixels_come_whole_or_not_at_all(networks: Networks, drive: Drive) -> None:
    stream = Jpeg(networks, [np.tile(each, (8, 8, 1)) for each in drive.frames], None, quality=90)
    first = stream.send(0, 0)
    assert len(first) > 2
    assert max(each.size for each in first) <= 1400 + 114
    second = stream.send(1, 0.1)
    assert not any(stream.receive(each, 0.1) for each in first[:-1])
    shown = [each for datagram in second for each in stream.receive(datagram, 0.2)]
    assert [each.index for each in shown] == [1]
    # Whole at last, but older than what is shown.
    assert stream.receive(first[-1], 0.3) == []


def test_h264_recovers_at_a_key_frame(networks: Networks, drive: Drive) -> None:
    frames = [drive.frames[0]] * 24
    stream = H264(networks, frames, None, bit_rate=256_000)
    shown = []
    for index in range(24):
        for datagram in stream.send(index, index / RATE):
            if index not in (0, 12):
                shown += stream.receive(datagram, index / RATE)
    indices = [each.index for each in shown]
    assert indices == sorted(indices)
    assert not {0, 12} & set(indices)
    assert {10, 11, 20, 21, 22, 23} <= set(indices)


@pytest.mark.parametrize("name", [name for name in STREAMS if "JPEG" in name or "token" in name])
def test_who_knows_the_rate_keeps_to_it(networks: Networks, drive: Drive, name: str) -> None:
    spec = LinkSpec.parse("rate=16kbit queue=64kB")
    frames = drive.frames * 8
    run = simulate(STREAMS[name](networks, frames, spec.rate), spec, len(frames))
    assert run.counters.dropped == 0
    assert run.counters.bytes * 8 <= 16_000 * len(frames) / RATE + 8 * 4000
    assert run.shown


def test_a_sweep_goes_on_where_it_stopped(
    networks: Networks, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AXES", {"loss": ("delay=50ms", ("0%", "20%"))})
    monkeypatch.setattr(module, "SEEDS", (1, 2))
    assert len(list(cells())) == 4 * len(STREAMS)
    path = tmp_path / "sweep.json"
    full = sweep(networks.bundle, drive, path)
    assert set(full["cells"]) == {cell.key for cell in cells()}
    part = json.loads(path.read_text())
    removed = part["cells"].pop(next(cells()).key)
    kept = next(iter(part["cells"]))
    part["cells"][kept]["miou"] = 7.0
    path.write_text(json.dumps(part))
    again = sweep(networks.bundle, drive, path)
    assert again["cells"][next(cells()).key] == removed
    assert again["cells"][kept]["miou"] == 7.0
    assert table(full).count("\n") == 2 + 2 * len(STREAMS)
    pytest.importorskip("matplotlib")
    plot(full, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    other = Drive(drive.frames[:5], drive.labels[:5])
    with pytest.raises(GosvaeError, match="of another bundle or drive"):
        sweep(networks.bundle, other, path)


def test_the_page_says_what_the_committed_results_say() -> None:
    docs = Path(__file__).resolve().parents[1] / "docs"
    results = json.loads((docs / "bad-link.json").read_text())
    assert table(results).strip() in (docs / "bad-link.md").read_text()
