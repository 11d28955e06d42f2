"""Thresholds, findings and clocks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gosvae_common.health import (
    DROPS,
    ERROR,
    EVENTS,
    OK,
    WARN,
    ClockWatch,
    Findings,
    Judge,
    LossMeter,
    StampWatch,
    Threshold,
    age_problem,
    share,
)
from gosvae_common.meters import CounterRate

LOSS = Threshold("loss", "Share of packets lost", 0.1, 0.5, 1.0)
SILENCE = Threshold("silence_s", "Seconds of silence", 1.0, 5.0, 1e3)
AGE = Threshold("age_ms", "Age in ms", 500.0, 2000.0, 1e6)
RATE = Threshold("rate", "Frames a second", 10.0, 2.0, 1e3, below=True)


def judge(**parameters: Any) -> Judge:
    """A judge with the parameters' defaults, but for those given."""
    thresholds = (AGE, RATE, LOSS, SILENCE, DROPS)
    values = {name: each[0] for one in thresholds for name, each in one.parameters.items()}
    values |= {f"diagnostics.{name}": level for name, level, _ in EVENTS}
    values |= {f"diagnostics.{name.replace('__', '.')}": each for name, each in parameters.items()}
    return Judge(thresholds, values.__getitem__)


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
    findings = Findings(judge())
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
    rate = CounterRate()
    for count in (5, 9, 2, 4):
        rate.update(count)
    assert rate.total() == 5 + 4 + 0 + 2


def test_what_both_nodes_report() -> None:
    findings = Findings(judge(bundle_mismatch="warn", loss__error=0.0))
    assert not findings.silence("packets", 0.9, lambda: pytest.fail("asked for nothing"))
    findings.loss(0.05)
    findings.drops(math.nan)
    network = SimpleNamespace(provider="cpu", fell_back=False)
    findings.fallback(network, ["cuda", "cpu"])
    assert findings.summary("fine") == (OK, "fine")
    findings.loss(0.9)
    network.fell_back = True
    findings.fallback(network, ["cuda", "cpu"])
    findings.mismatch("receiver", 0xAB)
    level, text = findings.summary("fine")
    assert level == WARN
    assert text.startswith("90% of the packets are lost")
    assert "running on cpu, not on cuda" in text and "another bundle, 00000000000000ab" in text
    assert findings.silence("frames", 7.2, lambda: "it sleeps")
    assert findings.summary("")[0] == ERROR
    assert findings.summary("")[1].startswith("no frames for 7 s: it sleeps; ")


def test_cameras_that_do_not_stamp() -> None:
    stamps = StampWatch()
    assert stamps.problem == ""
    stamps.add(0, 0)
    stamps.add(0, 33_000_000)
    # A simulation begins at 0.
    assert stamps.problem == ""
    for _ in range(3):
        stamps.add(0, 0)
    assert "the camera does not stamp its frames" in stamps.problem
