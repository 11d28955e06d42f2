"""Measure latency, rate, CPU and memory of the pipeline over DDS, beside JPEG and raw images.

    make bench-pipeline JSON=docs/pipeline.json

Three transports from a camera's frame to a mask at the edge: *tokens* are the project's two nodes
with their defaults; *jpeg* is a vehicle that publishes ``sensor_msgs/CompressedImage`` and an edge
that runs the expert on it; *raw* is that edge on the camera's own images. Cameras and vehicle share
one core, the edge and the listener the other; networks run in one thread. A run that was
interrupted continues with the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gosvae_codec import GosvaeError, ModelBundle

from .files import BUNDLE
from .system_nodes import System, environment, pinned, private_network, python_of
from .system_results import SIZES, TRANSPORTS, Results, about, runs

DROPS = 0.01
"""Largest share of the frames that a sustained rate loses."""
CLOSE = 0.1
"""Share lost below which a failed trial is repeated once."""
PACE = 0.98
"""Share of the requested rate that cameras must reach; below, they are the limit."""
LADDER = (2.0, 128.0)
"""Lowest and highest rate in Hz of the search, and its precision as a ratio."""
PRECISION = 1.05


def highest(sustains: Callable[[float], bool]) -> float:
    """Return the highest rate in Hz within LADDER that `sustains`, by bisection; 0 if none."""
    low, high = LADDER
    if not sustains(low):
        return 0.0
    while high / low > PRECISION:
        rate = round(float(np.sqrt(low * high)), 1)
        if rate in (low, high):
            break
        low, high = (rate, high) if sustains(rate) else (low, rate)
    return low


def sustained(system: System, transport: str, size: str, seconds: float) -> dict[str, Any]:
    """Return the figures at the highest rate that loses at most DROPS, with all trials.

    A trial that loses a little more is repeated once, as other load may be the cause.
    """
    good: dict[float, dict[str, Any]] = {}
    trials: list[dict[str, Any]] = []

    def holds(rate: float, again: bool = True) -> bool:
        try:
            result = system.measure(size, rate, seconds)
        except GosvaeError:  # no mask before the deadline
            return False
        trials.append({key: result[key] for key in ("rate", "camera_rate", "drops")})
        drops = result["drops"]
        if drops is None or result["camera_rate"] < PACE * rate:
            return False
        if drops > DROPS:
            return again and drops < CLOSE and holds(rate, False)
        good[rate] = result
        return True

    best = highest(holds)
    return {"transport": transport, "size": size, **good.get(best, {}), "rate": best} | {
        "trials": trials
    }


def measure_all(options: argparse.Namespace, results: Results) -> None:
    """Measure the missing rows, and write the file after each."""
    found = results.found
    todo = results.todo(runs(options.quick))
    sizes = ["480x360", "1024x512"] if options.quick else list(SIZES)
    climbs = results.climbs(list(product(TRANSPORTS, sizes)))
    soaks = bool(options.soak) and found["soak"] is None
    total = len(todo) + len(climbs) + soaks + (found["stages"] is None)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
    with private_network(), Progress(*columns, TimeElapsedColumn()) as progress:
        bar = progress.add_task("pipeline", total=total)

        def done() -> None:
            results.write()
            progress.advance(bar)

        if found["stages"] is None:
            progress.update(bar, description="stages")
            found.update(stages(options.bundle, options.data))
            done()
        for transport, cameras in dict.fromkeys((run.transport, run.cameras) for run in todo):
            progress.update(bar, description=f"{transport}, {cameras} cameras")
            with System(transport, cameras, options.bundle, options.data) as system:
                for run in todo:
                    if (run.transport, run.cameras) == (transport, cameras):
                        text = f"{transport}, {run.size}, {cameras} x {run.rate:g} Hz"
                        progress.update(bar, description=text)
                        results.add(system.measure(run.size, run.rate, options.seconds))
                        done()
        for transport in dict.fromkeys(transport for transport, _ in climbs):
            with System(transport, 1, options.bundle, options.data) as system:
                for size in [size for which, size in climbs if which == transport]:
                    progress.update(bar, description=f"highest rate: {transport}, {size}")
                    climb = sustained(system, transport, size, options.seconds / 2)
                    found["sustained"].append(climb)
                    done()
        if soaks:
            progress.update(bar, description=f"soak, {options.soak:.0f} s")
            with System("tokens", 1, options.bundle, options.data) as system:
                found["soak"] = system.soak("480x360", 10, options.soak)
                done()


def stages(bundle: Path, drive: Path) -> dict[str, Any]:
    """Return the milliseconds of stages by size, measured in a separate process."""
    with tempfile.TemporaryDirectory(prefix="gosvae-stages-") as folder:
        path = Path(folder) / "stages.json"
        command = [*python_of("stages"), str(bundle), "--data", str(drive), "--json", str(path)]
        with pinned(min(os.sched_getaffinity(0))):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
        found = json.loads(path.read_text())
    return {name: found[name] for name in ("stages", "references")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the missing rows."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.system", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", type=Path, default=Path("out/pipeline.json"), help="results")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--data", type=Path, default=Path("drives/street.mcap"), help="a drive")
    parser.add_argument("--quick", action="store_true", help="the rows that tell most")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--soak", type=float, default=600.0, help="seconds of it; 0: none")
    options = parser.parse_args(arguments)
    try:
        results = Results(options.json, about(ModelBundle.load(options.bundle), options.data))
        measure_all(options, results)
    except (GosvaeError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run with the same file goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
