"""Thresholds, findings and clocks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gosvae_common.health import (
    ERROR,
    OK,
    WARN,
    ClockWatch,
    Findings,
    LossMeter,
    Threshold,
    age_problem,
    share,
)
from gosvae_common.meters import Growth

AGE = Threshold("age_ms", "Age in ms", 500.0, 2000.0, 1e6)
RATE = Threshold("rate", "Frames a second", 10.0, 2.0, 1e3, below=True)


@pytest.mark.parametrize(
    ("threshold", "value", "level"),
    [
        (AGE, 499.0, OK),
        (AGE, 500.0, WARN),
        (AGE, 2000.0, ERROR),
        (AGE, math.nan, OK),
        (RATE, 10.0, OK),
        (RATE, 9.9, WARN),
        (RATE, 1.9, ERROR),
        (RATE, math.nan, OK),
    ],
)
def test_levels(threshold: Threshold, value: float, level: bytes) -> None:
    assert threshold.level(value, threshold.warn, threshold.error) == level


@given(st.floats(allow_nan=True))
def test_thresholds_of_zero_never_worry(value: float) -> None:
    for threshold in (AGE, RATE):
        assert threshold.level(value, 0.0, 0.0) == OK


def test_parameters_say_what_they_mean() -> None:
    assert AGE.parameters["diagnostics.age_ms.warn"] == (
        500.0,
        "Age in ms: WARN from this value; 0: never.",
    )
    assert "ERROR below this value" in RATE.parameters["diagnostics.rate.error"][1]


def test_the_gravest_finding_comes_first() -> None:
    findings = Findings()
    findings.add(OK, "fine")
    assert findings.summary("receiving") == (OK, "receiving")
    findings.add(WARN, "slow")
    findings.add(ERROR, "dead")
    findings.add(WARN, "lossy")
    assert findings.summary("receiving") == (ERROR, "dead; slow; lossy")


class Steps:
    """Two clocks, moved by hand."""

    def __init__(self) -> None:
        self.steady = 100.0
        self.watch = ClockWatch(lambda: self.steady)

    def look(self, now: float, after: float = 1.0, simulated: bool = False) -> float:
        self.steady += after
        return self.watch.jump(now, simulated)


def test_a_system_clock_that_is_set_has_jumped() -> None:
    steps = Steps()
    assert [steps.look(now) for now in (1000.0, 1001.0, 1002.3, 1003.2)] == [0.0] * 4
    assert steps.look(1007.2) == pytest.approx(3.0)
    assert steps.look(1008.2) == 0.0
    assert steps.look(9.2) == pytest.approx(-1000.0)


def test_simulated_time_may_run_at_any_speed_but_not_back() -> None:
    steps = Steps()
    assert [steps.look(now, simulated=True) for now in (0.0, 5.0, 5.0, 500.0)] == [0.0] * 4
    assert steps.look(5.0, simulated=True) == -495.0
    # Zero is no time at all.
    assert steps.look(0.0, simulated=True) == 0.0
    assert steps.look(1.0, simulated=True) == 0.0


@pytest.mark.parametrize("age", [math.nan, -100.0, 0.0, 2000.0, 60_000.0])
def test_ages_that_can_be(age: float) -> None:
    assert age_problem(age) == ""


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (-2300.0, "2.3 s before their frames' stamps"),
        (90_000.0, "90.0 s after"),
        (1e12, "11574 days after"),
    ],
)
def test_ages_that_clocks_must_be_wrong_for(age: float, text: str) -> None:
    assert text in age_problem(age)
    assert "synchronise the clocks" in age_problem(age)


def test_shares() -> None:
    assert share(1.0, 3.0) == 0.25
    assert math.isnan(share(0.0, 0.0))


def test_loss_needs_some_packets() -> None:
    loss = LossMeter()
    loss.update(lost=1, received=18)
    assert math.isnan(loss.value())
    loss.update(lost=2, received=18)
    assert loss.value() == 0.1


def test_a_count_that_falls_has_begun_anew() -> None:
    growth = Growth()
    for count in (5, 9, 2, 4):
        growth.update(count)
    assert growth.total() == 5 + 4 + 0 + 2
