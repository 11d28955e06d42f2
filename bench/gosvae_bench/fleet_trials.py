"""Trials of a fleet's service: so many simulated vehicles for so long, and what became of frames.

Who makes the masks is given: the service on Ray, or what it is compared with. Vehicles send the
street that ships, encoded before, through a router with mutual TLS over QUIC.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gosvae_codec import GosvaeError
from gosvae_fleet.demo import Fleet
from gosvae_fleet.service import Service

from .fleet_parts import NETWORKS, children, cpu_ms, cpu_seconds
from .system_nodes import busy_seconds

RATE = 10.0
"""Frames a second of each stream, where nothing else is said."""
MOST = 64
"""Streams that are tried."""
LOST, AGE_MS = 0.01, 200.0
"""Share of the frames, and age of masks at p95, up to which streams are held."""
WARM_SECONDS, SETTLE_SECONDS = 2.0, 1.0
"""Before a measurement, and after it for masks on their way."""
START_SECONDS, PATIENCE_SECONDS = 120.0, 60.0
"""Limits for the first mask of vehicles that start and encode their frames, and after a failure."""
BETWEEN_SECONDS = 12.0
"""From one failure to the next, for what was killed to come back."""
NAMES = [f"v{number:02d}" for number in range(1, MOST + 1)]

Figures = dict[str, Any]
NOTHING: Figures = {
    "streams": 0,
    "frames_per_s": 0.0,
    "age_ms": {},
    "lost": None,
    "cpu_ms": {},
    "cpu_of_others": 0.0,
}
DISTURBED = 0.15
"""Cores that other programs take, above which a trial that failed is repeated once."""


def most_held(holds: Callable[[int], bool], most: int = MOST) -> int:
    """Return the highest number up to `most` for which `holds` is true; 0 if there is none.

    It is doubled until it fails, then bisected, as what holds holds for fewer as well.
    """
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, 2 * high
    return _bisected(holds, low, min(high, most + 1))


def fastest_held(holds: Callable[[int], bool], held: int) -> int:
    """Return the highest rate in whole Hz that `held` streams of RATE are held at.

    One more stream of RATE was not held, so that their frames a second are the limit.
    """
    return _bisected(holds, int(RATE), int(RATE * (held + 1) / held))


def _bisected(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the highest number from `low`, which holds, to below `high`, which does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def is_held(figures: Mapping[str, Any]) -> bool:
    """Return whether streams with these figures are held."""
    ages = figures["age_ms"]
    return bool(figures["lost"] <= LOST and ages.get("p95", AGE_MS + 1) <= AGE_MS)


class Trials:
    """Vehicles of a fleet that are driven for one trial after another."""

    def __init__(self, fleet: Fleet, bundle: Path) -> None:
        """Drive vehicles of `fleet`, whose masks somebody makes with a bundle."""
        self.fleet, self.bundle = fleet, bundle
        self.made: list[Figures] = []
        """The figures of all trials."""

    def drive(self, streams: int, rate: float = RATE) -> None:
        """Start so many vehicles, and wait until all have masks; raise GosvaeError if one has none.

        Those that drove before have to be stopped.
        """
        begin, names = time.time(), self.fleet.names[:streams]
        self.fleet.simulate(names, rate, "--recorded", "--bundle", str(self.bundle))
        self.await_masks(begin, streams, START_SECONDS)

    def await_masks(self, since: float, streams: int, limit: float = PATIENCE_SECONDS) -> None:
        """Wait for a mask of each vehicle of a frame from `since` on, in s since 1970.

        Raises:
            GosvaeError: one has none after `limit` seconds.
        """
        begin, wanted = time.time(), set(self.fleet.names[:streams])
        while not self.fleet.masks_since(since) >= wanted:
            if time.time() - begin > limit:
                raise GosvaeError(f"{streams} vehicles: not all have a mask after {limit:.0f} s")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the vehicles."""
        for process in self.fleet.processes:
            process.terminate()
            process.wait()
        self.fleet.processes.clear()

    def ages(self, begin: float, end: float) -> list[float]:
        """Return the ages in ms of masks of frames with stamps from `begin` to `end`."""
        sent = [each for each in list(self.fleet.sent) if begin <= each[1] / 1e9 < end]
        return [age for each in sent if (age := self.fleet.received.get(each)) is not None]

    def measure(self, streams: int, rate: float, seconds: float) -> Figures:
        """Return the figures of so many streams; they are kept in `made` as well."""
        trial = {"streams": streams, "rate_hz": rate}
        try:
            self.drive(streams, rate)
            time.sleep(WARM_SECONDS)
            begin, before, busy = time.time(), cpu_seconds(), busy_seconds()
            time.sleep(seconds)
            end, after, busy = time.time(), cpu_seconds(), busy_seconds() - busy
            time.sleep(SETTLE_SECONDS)
            figures = {**self.fleet.figures(begin, end), **trial}
            masks = round(figures["frames_per_s"] * (end - begin))
            figures["cpu_ms"] = cpu_ms(before, after, masks)
            ours = after.total() - before.total()
            figures["cpu_of_others"] = round((busy - ours) / (end - begin), 2)
        except GosvaeError:
            figures = {**NOTHING, "lost": 1.0, **trial}
        finally:
            self.stop()
        print(figures, file=sys.stderr, flush=True)
        self.made.append(figures)
        return figures

    def find(self, seconds: float, most: int) -> Figures:
        """Return the figures at the most streams of RATE that are held, with two more.

        ``held_per_s`` is the most frames a second that so many streams are held at, in steps of
        1 Hz of each; ``saturated_per_s`` are the masks a second with one more stream of RATE.
        """

        def holds(streams: int, rate: float) -> bool:
            figures = self.measure(streams, rate, seconds)
            if not is_held(figures) and figures["cpu_of_others"] > DISTURBED:
                figures = self.measure(streams, rate, seconds)
            return is_held(figures)

        held = most_held(lambda streams: holds(streams, RATE), most)
        at_rate = {each["streams"]: each for each in self.made}
        rate = int(RATE)
        if 0 < held < most:
            rate = fastest_held(lambda hz: holds(held, hz), held)
        return {
            **at_rate.get(held, NOTHING),
            "held_per_s": held * rate,
            "saturated_per_s": at_rate.get(held + 1, NOTHING)["frames_per_s"],
            "trials": self.made,
        }


class ServiceTrials(Trials):
    """Trials of the service, with so many replicas of a bundle's networks."""

    def __init__(self, folder: Path, bundle: Path, replicas: int, **quotas: float) -> None:
        super().__init__(Fleet(folder, NAMES, **quotas), bundle)
        try:
            self.service = Service(self.fleet.settings(bundles=(bundle,), replicas=(replicas,) * 2))
        except BaseException:
            self.fleet.close()
            raise

    def close(self) -> None:
        """End all of it."""
        self.fleet.close()
        self.service.close()

    def recover(self, streams: int) -> dict[str, float]:
        """Kill one process of each kind; return the ms until all streams have masks again."""
        found: dict[str, float] = {}
        self.drive(streams)
        for part in ("replica", "holder", "gateway"):
            time.sleep(BETWEEN_SECONDS)
            os.kill(self._process(part), signal.SIGKILL)
            begin = time.time()
            self.await_masks(begin, streams)
            found[part] = round(1e3 * (time.time() - begin))
        self.stop()
        return found

    def _process(self, part: str) -> int:
        if part == "replica":
            return children()[NETWORKS][0].pid
        state = self.service.state()
        if part == "gateway":
            assert state.gateway is not None
            return state.gateway.process
        present = [each for each in state.holders if each is not None]
        return max(present, key=lambda each: len(each.streams)).process
