"""Memory of a fleet's service over time: what each process holds, and whether it grows."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gosvae_fleet.monitor import Monitor
from gosvae_fleet.service import Service

from .fleet_parts import NETWORKS, RAY, children

STEP_SECONDS = 60.0
FLAT_MB_PER_HOUR = 10.0
"""Growth of one part up to which its memory is flat."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(process: int) -> tuple[float, float]:
    """Return the MB that a process holds in memory, and those of them that are its own alone.

    The rest are libraries, and pages of Ray's store of objects, which all processes share.
    """
    _, held, shared = Path(f"/proc/{process}/statm").read_text().split()[:3]
    return int(held) * _PAGE / 1e6, (int(held) - int(shared)) * _PAGE / 1e6


def processes(service: Service) -> dict[str, list[int]]:
    """Return the processes of a service that this process started, by their part."""
    state = service.state()
    holders = {f"holder {index}": each for index, each in enumerate(state.holders)}
    parts = {
        name: [each.process] for name, each in {"gateway": state.gateway, **holders}.items() if each
    }
    ours = children()
    for index, process in enumerate(ours[NETWORKS]):
        parts[f"replica {index}"] = [process.pid]
    parts[RAY] = [each.pid for each in ours[RAY]]
    return parts


def growth(megabytes: Sequence[float], step: float) -> float:
    """Return the MB an hour by which memory grew in the second half, by least squares.

    Args:
        megabytes: in steps of `step` seconds, four at least.
        step: in seconds.
    """
    later = megabytes[len(megabytes) // 2 :]
    hours = np.arange(len(later)) * step / 3600
    return float(np.polyfit(hours, later, 1)[0])


class Memory:
    """The memory of some processes over time."""

    def __init__(self, parts: Mapping[str, Sequence[int]], step: float) -> None:
        """Watch processes by their part, each `step` seconds."""
        self.parts, self.step = dict(parts), step
        self.resident: dict[str, list[float]] = {name: [] for name in parts}
        self.own: dict[str, list[float]] = {name: [] for name in parts}

    def read(self) -> None:
        """Add a value for each part.

        Raises:
            FileNotFoundError: a process has ended.
        """
        for name, numbers in self.parts.items():
            held, own = zip(*map(resident, numbers), strict=True)
            self.resident[name].append(round(sum(held), 2))
            self.own[name].append(round(sum(own), 2))

    def figures(self) -> dict[str, Any]:
        """Return all values in MB, and the growth of each part's own in MB an hour."""
        return {
            "step_s": self.step,
            "resident_mb": self.resident,
            "own_mb": self.own,
            "growth_mb_per_h": {
                name: round(growth(values, self.step), 2) for name, values in self.own.items()
            },
        }


def watch(service: Service, seconds: float) -> Memory:
    """Read the memory of all parts for some time, asking them for figures each second.

    So does `gosvae fleet`, and what a part has to tell would otherwise pile up in it.
    """
    step = min(STEP_SECONDS, seconds / 20)
    memory = Memory(processes(service), step)
    monitor = Monitor()
    begin = time.monotonic()
    try:
        while (now := time.monotonic() - begin) < seconds + step:
            if now >= step * len(next(iter(memory.resident.values()))):
                memory.read()
            monitor.update(service.state())
            monitor.answer("/metrics")
            time.sleep(1.0)
    finally:
        monitor.close()
    return memory
