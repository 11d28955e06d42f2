"""What the nodes' figures mean to an operator: thresholds, findings and their texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticStatus

from .meters import CounterRate, Meter

OK: bytes = DiagnosticStatus.OK
WARN: bytes = DiagnosticStatus.WARN
ERROR: bytes = DiagnosticStatus.ERROR
STALE: bytes = DiagnosticStatus.STALE
LEVELS = {"ok": OK, "warn": WARN, "error": ERROR}
"""Levels by the names that parameters use."""

JUMP_SECONDS = 0.5
"""Smallest difference between a clock's and the steady clock's progress that counts as a jump."""
MIN_PACKETS = 20
"""Smallest number of packets from which a share of lost ones is computed."""


@dataclass(frozen=True)
class Threshold:
    """Limits of one figure, as parameters ``diagnostics.<name>.warn`` and ``.error``.

    Attributes:
        name: of the figure.
        what: the figure with its unit, as the beginning of a sentence.
        warn, error: default values from which the level is WARN or ERROR; 0: never.
        most: the largest value of the parameters.
        below: whether small values are the bad ones.
    """

    name: str
    what: str
    warn: float
    error: float
    most: float
    below: bool = False

    @property
    def parameters(self) -> dict[str, tuple[float, str]]:
        """Default and description of each parameter, by name."""
        side = "below" if self.below else "from"
        return {
            f"diagnostics.{self.name}.{word}": (
                value,
                f"{self.what}: {word.upper()} {side} this value; 0: never.",
            )
            for word, value in (("warn", self.warn), ("error", self.error))
        }

    def level(self, value: float, warn: float, error: float) -> bytes:
        """Return the level of a value, given the parameters' values; OK for nan."""
        for limit, level in ((error, ERROR), (warn, WARN)):
            if limit and (value < limit if self.below else value >= limit):
                return level
        return OK


DROPS = Threshold("drops", "Share of frames dropped before the network", 0.05, 0.5, 1.0)

EVENTS = (
    ("provider_fallback", "warn", "networks do not run on the first of `providers`"),
    ("bundle_mismatch", "error", "the other side has another bundle"),
    ("seal", "error", "packets or feedback are not sealed, not authentic or replayed"),
)
"""Name, default level and meaning of events; ``diagnostics.<name>`` sets the level."""


class Judge:
    """Levels of figures and events, as a node's parameters set them."""

    def __init__(self, thresholds: Sequence[Threshold], value: Callable[[str], Any]) -> None:
        """Take the limits from `value`, which returns a parameter's value by its name."""
        self._thresholds = {each.name: each for each in thresholds}
        self._value = value

    def limits(self, name: str) -> tuple[float, float]:
        """Return the values from which a figure is WARN and ERROR; 0: never."""
        warn, error = map(self._value, self._thresholds[name].parameters)
        return warn, error

    def figure(self, name: str, value: float) -> bytes:
        """Return the level of a figure."""
        return self._thresholds[name].level(value, *self.limits(name))

    def event(self, name: str) -> bytes:
        """Return the level of an event that has happened."""
        return LEVELS[self._value(f"diagnostics.{name}")]


class Network(Protocol):
    """What findings need to know of a session that runs a network."""

    provider: str
    fell_back: bool


class Findings:
    """Findings about one camera. Those that both nodes report have a method of their own."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._found: list[tuple[bytes, str]] = []

    def add(self, level: bytes, text: str) -> None:
        """Add a finding, unless its level is OK."""
        if level != OK:
            self._found.append((level, text))

    def figure(self, name: str, value: float, text: str) -> None:
        """Add a finding about a figure, at the level of its value."""
        self.add(self._judge.figure(name, value), text)

    def event(self, name: str, text: str) -> None:
        """Add a finding about an event, at its level."""
        self.add(self._judge.event(name), text)

    def silence(self, what: str, seconds: float, why: Callable[[], str]) -> bool:
        """Add that nothing was received for too long; return whether that is so."""
        level = self._judge.figure("silence_s", seconds)
        if level != OK:
            self.add(level, f"no {what} for {seconds:.0f} s: {why()}")
        return level != OK

    def loss(self, value: float) -> None:
        """Add that packets are lost, a share of 0 to 1."""
        self.figure(
            "loss",
            value,
            f"{value:.0%} of the packets are lost: lower max_kbit_per_s or raise parity at the "
            "transmitter, or improve the link",
        )

    def drops(self, value: float) -> None:
        """Add that frames are dropped before the network, a share of 0 to 1."""
        self.figure(
            "drops",
            value,
            f"{value:.0%} of the frames are dropped: they come faster than the network runs; "
            "lower the camera's rate, or raise threads",
        )

    def rate(self, what: str, value: float) -> None:
        """Add that there are too few frames or masks a second."""
        self.figure("frames_per_s", value, f"{value:.1f} {what} a second, fewer than asked for")

    def fallback(self, network: Network, providers: Sequence[str]) -> None:
        """Add that a network does not run on the first of the providers."""
        if network.fell_back:
            self.event(
                "provider_fallback",
                f"running on {network.provider}, not on {providers[0]}: install onnxruntime-gpu "
                "with its CUDA libraries and check nvidia-smi, or put an available provider first "
                "in providers; gosvae doctor tells more",
            )

    def mismatch(self, side: str, fingerprint: int) -> None:
        """Add that the other `side` has another bundle."""
        self.event(
            "bundle_mismatch",
            f"the {side} has another bundle, {fingerprint:016x}: give both nodes the same folder; "
            "gosvae inspect FOLDER tells its fingerprint",
        )

    def summary(self, otherwise: str) -> tuple[bytes, str]:
        """Return the highest level and all texts in its order; OK and `otherwise` if none."""
        if not self._found:
            return OK, otherwise
        ordered = sorted(self._found, key=lambda found: found[0], reverse=True)
        return ordered[0][0], "; ".join(text for _, text in ordered)


class ClockWatch:
    """Detects jumps of the clock that stamps are compared with."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        """Compare with `steady`, seconds of a clock that is never set."""
        self._steady = steady
        self._before: tuple[float, float] | None = None

    def jump(self, now: float, simulated: bool) -> float:
        """Return by how many seconds the clock jumped since the last call; 0 if it did not.

        Args:
            now: seconds of the clock; 0: not known yet.
            simulated: whether it may run at any speed, or stand, so that only going back counts.
        """
        steady, before = self._steady(), self._before
        self._before = (now, steady) if now else None
        if before is None or not now:
            return 0.0
        change = now - before[0]
        if simulated:
            return change if change < 0 else 0.0
        change -= steady - before[1]
        return change if abs(change) > JUMP_SECONDS else 0.0


def share(part: float, rest: float) -> float:
    """Return the share that `part` has of the whole, 0 to 1; nan of nothing."""
    return part / (part + rest) if part + rest else math.nan


class LossMeter:
    """Share of packets lost over the last seconds, from counters."""

    def __init__(self) -> None:
        self._lost, self._received = CounterRate(), CounterRate()

    def update(self, lost: int, received: int) -> None:
        """Record what the counters are now."""
        self._lost.update(lost)
        self._received.update(received)

    def value(self) -> float:
        """Return the share, 0 to 1; nan of too few packets."""
        lost, received = self._lost.total(), self._received.total()
        return share(lost, received) if lost + received >= MIN_PACKETS else math.nan


def age_problem(milliseconds: float) -> str:
    """Return why a mask's age is impossible; empty if it is possible, or nan."""
    if math.isnan(milliseconds) or -100 <= milliseconds <= 60_000:
        return ""
    seconds = abs(milliseconds) / 1e3
    span = f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else f"{seconds:.1f} s"
    side = "before their frames' stamps" if milliseconds < 0 else "after their frames' stamps"
    return (
        f"masks come {span} {side}: synchronise the clocks of camera and receiver, or replay "
        "recordings with use_sim_time or restamped"
    )


class StampWatch:
    """Detects cameras that do not stamp their frames."""

    def __init__(self) -> None:
        self._unstamped, self._frames = Meter(), Meter()

    def add(self, sec: int, nanosec: int) -> None:
        """Record the stamp of one frame."""
        self._frames.add(1)
        if sec == nanosec == 0:
            self._unstamped.add(1)

    @property
    def problem(self) -> str:
        """Why ages are unknown; empty if most frames of the last seconds have a stamp.

        A simulation's first frame may well have the stamp 0.
        """
        if self._unstamped.total() <= self._frames.total() / 2:
            return ""
        return (
            "the camera does not stamp its frames, so the age of masks is unknown and masks cannot "
            "be matched with frames: have the driver set header.stamp"
        )
