"""The model of a link: what it promises about order, rate, queue and loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gosvae_tools.link.channel import Channel, LinkError, LinkSpec

TRAFFIC = st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 1514)), min_size=1, max_size=60)
"""Gaps in seconds and sizes in bytes."""
SPECS = st.builds(
    lambda delay, jitter, burst, **rest: (
        LinkSpec(delay=delay, jitter=delay * jitter, **rest)
        if burst is None
        else LinkSpec(delay=delay, jitter=delay * jitter, burst=burst + 1, **rest)
    ),
    delay=st.floats(0, 0.3),
    jitter=st.floats(0, 1),
    burst=st.none() | st.floats(0, 10),
    loss=st.floats(0, 0.5),
    reorder=st.sampled_from((0.0, 0.2)),
    rate=st.none() | st.floats(8e3, 1e7),
    queue=st.none() | st.integers(0, 100_000),
    seed=st.integers(0, 1000),
)


def carry(spec: LinkSpec, traffic: Sequence[tuple[float, int]]) -> list[float | None]:
    channel, now, arrivals = Channel(spec), 0.0, []
    for gap, size in traffic:
        now += gap
        arrivals.append(channel.send(now, size))
    return arrivals


@given(SPECS, TRAFFIC)
def test_every_packet_arrives_once_or_is_counted_as_lost(
    spec: LinkSpec, traffic: list[tuple[float, int]]
) -> None:
    channel, now, carried = Channel(spec), 0.0, []
    for gap, size in traffic:
        now += gap
        arrival = channel.send(now, size)
        if arrival is not None:
            assert arrival >= now + spec.delay - spec.jitter - 1e-9
            carried.append(size)
    counters = channel.counters
    assert (counters.packets, counters.bytes) == (len(traffic), sum(size for _, size in traffic))
    assert (counters.carried, counters.carried_bytes) == (len(carried), sum(carried))
    assert counters.dropped + counters.lost + counters.carried == len(traffic)
    assert spec.loss or not counters.lost
    assert spec.rate or not counters.dropped


@given(SPECS, TRAFFIC)
def test_the_same_seed_gives_the_same_link(
    spec: LinkSpec, traffic: list[tuple[float, int]]
) -> None:
    assert carry(spec, traffic) == carry(spec, traffic)


def test_seeds_and_directions_differ() -> None:
    def lost(seed: int, direction: str) -> list[bool]:
        channel = Channel(LinkSpec(loss=0.5, seed=seed), direction)
        return [channel.send(i, 100) is None for i in range(64)]

    assert len({tuple(lost(seed, direction)) for seed in (1, 2) for direction in "ab"}) == 4


@given(SPECS, TRAFFIC)
def test_order_is_kept_unless_asked_otherwise(
    spec: LinkSpec, traffic: list[tuple[float, int]]
) -> None:
    arrivals = [each for each in carry(spec, traffic) if each is not None]
    if spec.reorder == 0:
        assert arrivals == sorted(arrivals)


def test_reordered_packets_are_overtaken() -> None:
    arrivals = carry(LinkSpec(delay=0.02, reorder=0.25, seed=1), [(0.005, 100)] * 400)
    overtaken = sum(a > b for a, b in pairwise(arrivals))
    assert 60 <= overtaken <= 100


@given(st.floats(8e3, 1e6), st.none() | st.integers(0, 50_000), TRAFFIC)
def test_no_window_carries_more_than_the_rate(
    rate: float, queue: int | None, traffic: list[tuple[float, int]]
) -> None:
    arrivals = carry(LinkSpec(rate=rate, queue=queue), traffic)
    ends = [(at, size) for at, (_, size) in zip(arrivals, traffic, strict=True) if at is not None]
    for first, (begin, size) in enumerate(ends):
        begin -= size * 8 / rate
        bits = 0
        for end, size in ends[first:]:
            bits += size * 8
            assert bits <= rate * (end - begin) * (1 + 1e-9) + 1e-3


@given(st.floats(8e3, 1e6), st.integers(0, 20_000), TRAFFIC)
def test_no_packet_waits_for_more_than_the_queue(
    rate: float, queue: int, traffic: list[tuple[float, int]]
) -> None:
    now = 0.0
    for arrival, (gap, size) in zip(
        carry(LinkSpec(rate=rate, queue=queue), traffic), traffic, strict=True
    ):
        now += gap
        if arrival is not None:
            # What waits, the packet itself included, and the one that is being sent.
            assert arrival - now <= (max(queue, size) + 1514) * 8 / rate + 1e-9


def test_a_link_without_queue_still_carries_what_finds_it_idle() -> None:
    arrivals = carry(LinkSpec(rate=8000, queue=0), [(0, 500), (0, 500), (0.5, 500)])
    assert arrivals == [0.5, None, 1.0]


def test_the_default_queue_is_300_ms_but_holds_two_frames() -> None:
    def accepted(rate: float) -> int:
        return sum(each is not None for each in carry(LinkSpec(rate=rate), [(0, 1000)] * 1000))

    assert accepted(8000) == 1 + 3
    assert accepted(800_000) == 1 + 30


@pytest.mark.parametrize(("loss", "burst"), [(0.1, None), (0.1, 1), (0.1, 4), (0.3, 8), (0.5, 1)])
def test_loss_and_bursts_are_as_long_as_asked(loss: float, burst: float | None) -> None:
    count = 200_000
    channel = Channel(LinkSpec(loss=loss, burst=burst, seed=3))
    lost = [channel.send(0, 1) is None for _ in range(count)]
    runs = [len(list(run)) for is_lost, run in groupby(lost) if is_lost]
    expected = 1 / (1 - loss) if burst is None else burst
    # Bursts make neighbours alike: fewer independent samples, by about twice their length.
    tolerance = 5 * math.sqrt(loss * (1 - loss) * 2 * expected / count)
    assert sum(lost) / count == pytest.approx(loss, abs=tolerance)
    assert sum(runs) / len(runs) == pytest.approx(expected, rel=0.05)


def test_more_loss_loses_the_same_packets_and_others() -> None:
    def lost(share: float, delay: float) -> set[int]:
        arrivals = carry(LinkSpec(loss=share, delay=delay), [(0.01, 100)] * 500)
        return {i for i, arrival in enumerate(arrivals) if arrival is None}

    assert lost(0.05, 0) < lost(0.2, 0) == lost(0.2, 0.1)


def test_time_does_not_run_back() -> None:
    channel = Channel(LinkSpec())
    channel.send(1, 1)
    with pytest.raises(ValueError, match=r"time 0\.5 is before 1"):
        channel.send(0.5, 1)


def test_a_whole_description() -> None:
    text = "loss=10% delay=50ms, rate=128kbit jitter=5ms burst=3 reorder=1% queue=64kB seed=7"
    spec = LinkSpec(
        loss=0.1, delay=0.05, rate=128e3, jitter=0.005, burst=3, reorder=0.01, queue=64_000, seed=7
    )
    assert LinkSpec.parse(text) == spec
    assert LinkSpec.parse("loss=.1 delay=0.05s rate=2mbit queue=100ms") == LinkSpec(
        loss=0.1, delay=0.05, rate=2e6, queue=25_000
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "link has no ''; it can be: delay=50ms"),
        ("los=10%", "link has no 'los=10%'; it can be: .*loss=10%"),
        ("delay=50", "'delay=50' is no number with its unit, as delay=50ms"),
        ("rate=128", "as rate=128kbit"),
        ("loss=nan", "as loss=10%"),
        ("loss=-1%", "as loss=10%"),
        ("queue=64KB", "as queue=64kB or 300ms"),
        ("queue=300ms", "a queue in ms needs a rate"),
        ("loss=1% loss=2%", "loss is given twice"),
        ("loss=101%", "loss is 101%; give 0% to 100%"),
        ("reorder=2", "reorder is 200%"),
        ("jitter=5ms", "jitter is 5ms and delay 0ms"),
        ("rate=0kbit", "rate is 0kbit; give more than 0"),
        ("loss=60% burst=1", "burst is 1; at a loss of 60%"),
        ("burst=0.5", "burst is 0.5"),
        ("loss=100% burst=9", "burst is 9; at a loss of 100%"),
    ],
)
def test_mistakes_in_a_description_are_named(text: str, reason: str) -> None:
    with pytest.raises(LinkError, match=reason):
        LinkSpec.parse(text)
