"""Lost frames, told from stamps: loss at random counts, a camera's own irregularities do not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest

from gosvae_common.delivery import MIN_GAPS, DeliveryMeter

SECOND = 1_000_000_000
WARNED = 0.3
"""The default threshold of the transmitter."""


def lost_share(stamps: Iterable[float]) -> float:
    meter = DeliveryMeter()
    for stamp in stamps:
        meter.add(round(stamp * SECOND))
    return meter.lost_share()


def camera(rng: np.random.Generator, count: int, hz: float, jitter: float) -> list[float]:
    """Stamps of a camera, each off by a normal share `jitter` of the period."""
    return [1e9 + (k + jitter * rng.standard_normal()) / hz for k in range(count)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("jitter", [0.0, 0.02, 0.08])
@pytest.mark.parametrize(("hz", "lost"), [(30.0, 0.5), (15.0, 0.4), (60.0, 0.7), (10.0, 0.5)])
def test_frames_lost_at_random_are_detected(
    seed: int, jitter: float, hz: float, lost: float
) -> None:
    rng = np.random.default_rng(seed)
    sent = camera(rng, round(10 * hz / (1 - lost) / 2), hz, jitter)
    found = lost_share(stamp for stamp in sent if rng.random() >= lost)
    assert found >= WARNED
    assert abs(found - lost) < 0.25


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lost", [0.0, 0.01, 0.05, 0.1])
@pytest.mark.parametrize("jitter", [0.0, 0.05, 0.15, 0.3])
def test_few_lost_frames_and_jitter_are_not_reported(seed: int, lost: float, jitter: float) -> None:
    rng = np.random.default_rng(seed)
    sent = camera(rng, 300, 30.0, jitter)
    assert not lost_share(stamp for stamp in sent if rng.random() >= lost) >= WARNED


@pytest.mark.parametrize("kept", [0.3, 0.34, 0.4, 0.5, 0.55, 0.6, 0.66, 0.75, 0.9])
@pytest.mark.parametrize("jitter", [0.0, 0.02])
def test_throttled_cameras_are_not_reported(kept: float, jitter: float) -> None:
    sent = camera(np.random.default_rng(1), 400, 30.0, jitter)
    # As a frame skipper does: an even part of the frames.
    skipped = [
        each for k, each in enumerate(sent) if math.floor(k * kept) != math.floor(k * kept - kept)
    ]
    assert not lost_share(skipped) >= WARNED
    # As topic_tools throttle does: at least a time since the last one.
    throttled: list[float] = []
    for each in sent:
        if not throttled or each - throttled[-1] >= 1 / (30.0 * kept):
            throttled.append(each)
    assert not lost_share(throttled) >= WARNED


@pytest.mark.parametrize("rate", [0.1, 1.0, 10.0])
def test_replays_at_another_rate_are_not_reported(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 1 / (30.0 * rate))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert not lost_share(1e9 + k / 30 for k in range(300)) >= WARNED


def test_cameras_that_change_their_rate_or_pause_are_not_reported() -> None:
    fast, slow = [k / 30 for k in range(150)], [5 + k / 7.5 for k in range(40)]
    for split in (10, 50, 100, 149):
        assert not lost_share([*fast[-split:], *slow]) >= WARNED
    pauses = [k / 30 + 3 * (k // 20) for k in range(300)]
    assert not lost_share(pauses) >= WARNED
    rng = np.random.default_rng(2)
    triggered = np.cumsum(rng.exponential(0.1, 200))
    assert not lost_share(triggered) >= WARNED


@pytest.mark.parametrize(
    "stamps",
    [[], [0.0] * 100, [5.0] * 100, [float(k) for k in range(MIN_GAPS)], list(range(100, 0, -1))],
)
def test_stamps_that_do_not_tell(stamps: list[float]) -> None:
    assert math.isnan(lost_share(stamps))
