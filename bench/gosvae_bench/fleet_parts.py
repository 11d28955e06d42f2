"""The processes of a fleet's benchmark by the part that they play, and their CPU time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import psutil

RAY, NETWORKS, SELF = "Ray", "networks", "router, subscriber"
_PARTS = {
    "GatewayActor": "gateway",
    "HolderActor": "holders",
    "ray::ServeReplica:": NETWORKS,
    "gosvae_fleet.simulation": "vehicles",
    "gosvae_bench.fleet_vehicles": "vehicles",
    "gosvae_bench.fleet_flood": "flood",
    "/gosvae_rx/receiver": "receiver",
    "/gosvae_fleet/downlink": "downlink",
    "ray::": RAY,
    "/ray/": RAY,
}
"""By what is in their command line; the first that fits."""


def part_of(command: str) -> str:
    """Return the part of a process by its command line; empty: none."""
    return next((part for words, part in _PARTS.items() if words in command), "")


def children() -> dict[str, list[psutil.Process]]:
    """Return the processes that this one has started, and those have, by part."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if part := part_of(" ".join(process.cmdline())):
                found.setdefault(part, []).append(process)
    return found


def cpu_seconds() -> Counter[str]:
    """Return the CPU time of each part so far; this process's too, where router and masks are."""
    spent: Counter[str] = Counter()
    for part, processes in {SELF: [psutil.Process()], **children()}.items():
        for process in processes:
            with suppress(psutil.Error):
                times = process.cpu_times()
                spent[part] += times.user + times.system
    return spent


def cpu_ms(
    before: Mapping[str, float], after: Mapping[str, float], frames: int
) -> dict[str, float]:
    """Return the CPU time in ms a frame of each part."""
    return {
        part: round(1e3 * (each - before.get(part, 0.0)) / max(frames, 1), 2)
        for part, each in after.items()
    }
