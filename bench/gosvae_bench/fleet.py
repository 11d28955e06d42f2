"""Measure how many streams a fleet's service holds on this machine, and how fast it recovers.

    make bench-fleet JSON=out/fleet.json

Simulated vehicles send the street that ships, encoded before, at 10 Hz through a router with mutual
TLS over QUIC; they, the router and whoever takes the masks share the machine with the service. So
many streams are held as lose at most one frame in a hundred, with nineteen in twenty masks younger
than 200 ms when they arrive. Recovery is the time from a process's end by SIGKILL until each
vehicle has a mask of a later frame, with half as many streams.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.draft import write_text
from gosvae_common.shipped import find_bundle
from gosvae_fleet.demo import SETTLE_SECONDS, Fleet
from gosvae_fleet.service import Service, replica_processes
from gosvae_tools.tables import Table, show

RATE = 10.0
"""Frames a second of each stream."""
MOST = 64
"""Streams that are tried."""
LOST, AGE_MS = 0.01, 200.0
"""Share of the frames, and age of masks at p95, up to which streams are held."""
WARM_SECONDS = 3.0
PATIENCE_SECONDS = 30.0


def most_held(holds: Callable[[int], bool], most: int = MOST) -> int:
    """Return the highest number up to `most` for which `holds` is true; 0 if there is none.

    It is doubled until it fails, then bisected, as what holds holds for fewer as well.
    """
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


class Bench:
    """A fleet and its service, with a bundle and so many replicas of its networks."""

    def __init__(self, folder: Path, bundle: Path, replicas: int) -> None:
        self.bundle = ModelBundle.load(bundle)
        self.names = [f"v{number:02d}" for number in range(1, MOST + 1)]
        self.fleet = Fleet(folder, self.names)
        settings = self.fleet.settings(bundles=(bundle,), replicas=(replicas, replicas))
        self.service = Service(settings)
        self.trials: list[dict[str, Any]] = []

    def close(self) -> None:
        """End all of it."""
        self.fleet.close()
        self.service.close()

    def drive(self, streams: int) -> None:
        """Start so many vehicles, and wait until all have masks; raise GosvaeError if one has none.

        Those that drove before have to be stopped.
        """
        begin, wanted = time.time(), set(self.names[:streams])
        self.fleet.simulate(
            self.names[:streams], RATE, "--recorded", "--bundle", str(self.bundle.path)
        )
        while not self.fleet.masks_since(begin) >= wanted:
            if time.time() - begin > PATIENCE_SECONDS:
                raise GosvaeError(f"{streams} vehicles: not all have a mask after 30 s")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the vehicles."""
        for process in self.fleet.processes:
            process.terminate()
            process.wait()
        self.fleet.processes.clear()

    def measure(self, streams: int, seconds: float) -> dict[str, Any]:
        """Return the figures of so many streams; they are kept in ``trials`` as well."""
        try:
            self.drive(streams)
            time.sleep(WARM_SECONDS)
            begin = time.time()
            time.sleep(seconds)
            end = time.time()
            time.sleep(SETTLE_SECONDS)
            figures = {**self.fleet.figures(begin, end), "streams": streams}
        except GosvaeError:
            figures = {"streams": streams, "frames_per_s": 0.0, "age_ms": {}, "lost": 1.0}
        finally:
            self.stop()
        print(f"{streams} streams: {figures}", file=sys.stderr, flush=True)
        self.trials.append(figures)
        return figures

    def holds(self, streams: int, seconds: float) -> bool:
        """Return whether so many streams are held."""
        figures = self.measure(streams, seconds)
        return figures["lost"] <= LOST and figures["age_ms"].get("p95", AGE_MS + 1) <= AGE_MS

    def recover(self, streams: int) -> dict[str, float]:
        """Kill one process of each kind; return the ms until all streams have masks again."""
        found: dict[str, float] = {}
        self.drive(streams)
        for part in ("replica", "holder", "gateway"):
            time.sleep(WARM_SECONDS + PATIENCE_SECONDS / 3)
            os.kill(self._process(part), signal.SIGKILL)
            begin, wanted = time.time(), set(self.names[:streams])
            while not self.fleet.masks_since(begin) >= wanted:
                if time.time() - begin > PATIENCE_SECONDS:
                    raise GosvaeError(f"{part} killed: not all streams are back after 30 s")
                time.sleep(0.01)
            found[part] = round(1e3 * (time.time() - begin))
        self.stop()
        return found

    def _process(self, part: str) -> int:
        if part == "replica":
            return replica_processes(self.bundle.fingerprint)[0]
        state = self.service.state()
        if part == "gateway":
            assert state.gateway is not None
            return state.gateway.process
        present = [each for each in state.holders if each is not None]
        return max(present, key=lambda each: len(each.streams)).process


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.fleet", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--bundle", default="", help="another than the one that ships")
    parser.add_argument("--json", type=Path, default=Path("out/fleet.json"))
    parser.add_argument("--quick", action="store_true", help="shorter trials, most replicas only")
    options = parser.parse_args(arguments)
    processors = os.cpu_count() or 1
    seconds = 5.0 if options.quick else 20.0
    rows: list[dict[str, Any]] = []
    recovery: dict[str, float] = {}
    try:
        bundle = find_bundle(options.bundle)
        for replicas in [processors] if options.quick else sorted({1, processors}):
            with tempfile.TemporaryDirectory(prefix="gosvae-fleet-") as folder:
                bench = Bench(Path(folder), bundle, replicas)
                try:
                    held = most_held(lambda n, bench=bench: bench.holds(n, seconds))
                    best = next(
                        (each for each in bench.trials if each["streams"] == held),
                        {"streams": 0, "frames_per_s": 0.0, "age_ms": {}, "lost": None},
                    )
                    rows.append({"replicas": replicas, **best, "trials": bench.trials})
                    if replicas == processors:
                        recovery = bench.recover(max(held // 2, 1))
                finally:
                    bench.close()
    except GosvaeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    last = {name: rows[-1][name] for name in ("streams", "frames_per_s", "age_ms", "lost")}
    figures = {
        **last,
        "recovery_ms": recovery,
        "rate_hz": RATE,
        "seconds": seconds,
        "bundle": bundle.name,
        "processors": processors,
        "machine": platform.machine(),
        "date": str(date.today()),
        "replicas": rows,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.json, json.dumps(figures, indent=2) + "\n")
    columns = ("replicas", f"streams of {RATE:g} Hz", "masks/s", "age p50", "age p95", "lost")
    cells = [
        (
            row["replicas"],
            row["streams"],
            f"{row['frames_per_s']:.1f}",
            *(f"{row['age_ms'].get(name, float('nan')):.0f}" for name in ("p50", "p95")),
            row["lost"],
        )
        for row in rows
    ]
    show([Table("held", columns, cells), Table.of("recovery, ms", recovery)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
