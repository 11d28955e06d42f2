"""Measure how many streams a fleet's service holds on this machine, and what failures cost.

    make bench-fleet JSON=out/fleet.json
    make bench-fleet FLOOD=1 JSON=out/fleet-flood.json
    make bench-fleet SOAK=3600 JSON=out/fleet-memory.json

Simulated vehicles send the street that ships, encoded before, at 10 Hz through a router with mutual
TLS over QUIC; they, the router and whoever takes the masks share the machine with the service. So
many streams are held as lose at most one frame in a hundred, with nineteen in twenty masks younger
than 200 ms when they arrive. One receiver process is measured beside it, on the same cores: behind
`gosvae downlink`, which has all that comes before the service as well, and over DDS alone.

Recovery is the time from a process's end by SIGKILL until each vehicle has a mask of a later frame,
with half as many streams. With as many, a vehicle sends a hundred times its quota; with FLOOD=1
only this is measured, with half a stream for each core. With SOAK only memory is measured, over
that many seconds, with a stream of half the rate for each core.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

from gosvae_codec import GosvaeError
from gosvae_codec.draft import write_text
from gosvae_common.shipped import find_bundle
from gosvae_tools.tables import Table, show

from . import fleet_flood, fleet_memory
from .fleet_receiver import ReceiverTrials
from .fleet_trials import NAMES, RATE, SETTLE_SECONDS, Figures, ServiceTrials, Trials

SERVICE, DOWNLINK, RECEIVER = "service", "downlink and receiver", "receiver over DDS"
RESULT = ("streams", "frames_per_s", "age_ms", "lost")
RATES = ("held_per_s", "saturated_per_s")
"""By which the service is compared with receivers."""
FLOOD_SECONDS = 30.0
"""Of each kind of phase."""


class Bench:
    """What is measured of one bundle on this machine."""

    def __init__(self, bundle: Path, quick: bool) -> None:
        self.bundle, self.quick = bundle, quick
        self.processors = os.cpu_count() or 1
        self.seconds = 5.0 if quick else 10.0
        self.rows: list[Figures] = []

    @contextmanager
    def service(self, replicas: int, **quotas: float) -> Iterator[ServiceTrials]:
        """Run the service during the block."""
        with tempfile.TemporaryDirectory(prefix="gosvae-fleet-") as folder:
            trials = ServiceTrials(Path(folder), self.bundle, replicas, **quotas)
            with closing(trials):
                yield trials

    @contextmanager
    def receiver(self, who: str, threads: int) -> Iterator[ReceiverTrials]:
        """Run a receiver during the block, for up to twice the streams that the service holds."""
        held = max(each["streams"] for each in self.rows)
        names = NAMES[: max(4, 2 * held)]
        with tempfile.TemporaryDirectory(prefix="gosvae-fleet-") as folder:
            uplinks = who == DOWNLINK
            trials = ReceiverTrials(Path(folder), self.bundle, names, threads, uplinks)
            with closing(trials):
                yield trials

    def measure(self, found: Figures) -> None:
        """Add all figures but memory to `found`, as they come."""
        most = self.processors
        for replicas in [most] if self.quick else sorted({1, most}):
            with self.service(replicas) as trials:
                self.rows.append({"who": SERVICE, "replicas": replicas, **self.find(trials)})
        found |= report(self.rows)
        half = max(found["streams"] // 2, 1)
        for who in (DOWNLINK, RECEIVER):
            for threads in [most] if self.quick else sorted({1, most}):
                with self.receiver(who, threads) as receiver:
                    self.rows.append({"who": who, "threads": threads, **self.find(receiver)})
            found |= report(self.rows)
        self.flood(found, half)
        with self.service(most) as trials:
            found["recovery_ms"] = trials.recover(half)

    def find(self, trials: Trials) -> Figures:
        """Return what is held of some trials."""
        return trials.find(self.seconds, len(trials.fleet.names))

    def flood(self, found: Figures, others: int) -> None:
        """Add what a vehicle that floods costs so many others."""
        seconds = FLOOD_SECONDS / (1 + 2 * self.quick)
        with self.service(self.processors, packets_per_s=RATE) as trials:
            found["flood"] = fleet_flood.measure(trials, others, RATE, seconds)

    def soak(self, found: Figures, seconds: float) -> None:
        """Add the memory of the service's parts over some time, and what it made meanwhile."""
        with self.service(self.processors) as trials:
            trials.drive(self.processors, RATE / 2)
            begin = time.time()
            memory = fleet_memory.watch(trials.service, seconds)
            end = time.time()
            time.sleep(SETTLE_SECONDS)
            trials.stop()
            found |= {**trials.fleet.figures(begin, end), "memory": memory.figures()}


def report(rows: Sequence[Figures]) -> Figures:
    """Return the figures of the service with the most replicas, and its rates beside receivers'.

    Args:
        rows: of :meth:`Trials.find`, each with ``who``; the last of the service counts, and the
            best of each set-up of receivers.

    Returns:
        ``beside`` has the service's rates and CPU time a frame less a receiver's, as a share of the
        latter; None where a receiver holds nothing.
    """
    service = [each for each in rows if each["who"] == SERVICE][-1]
    beside: dict[str, dict[str, float | None]] = {}
    for who in dict.fromkeys(each["who"] for each in rows if each["who"] != SERVICE):
        best = {name: max(each[name] for each in rows if each["who"] == who) for name in RATES}
        best["cpu_ms"] = min(sum(each["cpu_ms"].values()) for each in rows if each["who"] == who)
        own = {**service, "cpu_ms": sum(service["cpu_ms"].values())}
        beside[who] = {
            name: round(own[name] / each - 1, 3) if each else None for name, each in best.items()
        }
    chosen = {name: service[name] for name in (*RESULT, *RATES)}
    return {**chosen, "beside": beside, "rows": list(rows)}


def tables(figures: Figures) -> list[Table]:
    """Return what there is of the figures as tables."""
    if "memory" in figures:
        memory = figures["memory"]
        columns = ("part", "first MB", "last MB", "its own", "growth MB/h")
        cells = [
            (name, held[0], held[-1], memory["own_mb"][name][-1], memory["growth_mb_per_h"][name])
            for name, held in memory["resident_mb"].items()
        ]
        return [Table("memory", columns, cells)]
    flood = _flood_tables(figures["flood"]["phases"])
    if "rows" not in figures:
        return flood
    columns = ("who", "replicas or threads", f"streams of {RATE:g} Hz", "masks/s", "age p50")
    columns += ("age p95", "held frames/s", "masks/s of one stream more")
    cells = [
        (
            row["who"],
            row.get("replicas", row.get("threads")),
            row["streams"],
            f"{row['frames_per_s']:.1f}",
            *(f"{row['age_ms'].get(name, math.nan):.0f}" for name in ("p50", "p95")),
            row["held_per_s"],
            f"{row['saturated_per_s']:.1f}",
        )
        for row in figures["rows"]
    ]
    return [
        Table("held", columns, cells),
        Table("recovery, ms", (), list(figures["recovery_ms"].items())),
        *flood,
    ]


def _flood_tables(phases: Figures) -> list[Table]:
    ages = [
        (name, each["packets_per_s"], each["p50"], each["p95"], *each["ratio"].values())
        for name, each in phases.items()
    ]
    parts = sorted({part for each in phases.values() for part in each["cores"]})
    cores = [
        (name, *(f"{each['cores'].get(part, 0.0):.2f}" for part in parts))
        for name, each in phases.items()
    ]
    who = "one vehicle sends"
    columns = (who, "packets/s", "others' p50", "p95", "p50 to without", "p95 to without")
    return [Table("flood", columns, ages), Table("cores in a flood", (who, *parts), cores)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables, and write the figures."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.fleet", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--bundle", default="", help="another than the one that ships")
    parser.add_argument("--json", type=Path, default=Path("out/fleet.json"))
    parser.add_argument("--quick", action="store_true", help="shorter trials, most replicas only")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--flood", action="store_true", help="only what a flood costs")
    only.add_argument("--soak", type=float, default=0.0, help="only memory, over these seconds")
    options = parser.parse_args(arguments)
    figures: Figures = {"rate_hz": RATE, "machine": platform.machine(), "date": str(date.today())}
    try:
        bench = Bench(find_bundle(options.bundle), options.quick)
        figures |= {"bundle": bench.bundle.name, "processors": bench.processors}
        if options.soak:
            bench.soak(figures, options.soak)
        elif options.flood:
            bench.flood(figures, max(bench.processors // 2, 1))
        else:
            bench.measure(figures)
    except GosvaeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:  # what was measured until then
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.json, json.dumps(figures, indent=2) + "\n")
    show(tables(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
