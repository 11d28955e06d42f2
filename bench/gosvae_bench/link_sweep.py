"""Masks over bad links: tokens beside JPEG and H.264, over loss, delay and rate.

    python -m gosvae_bench.link_sweep --data path/to/camvid

plays the val split of CamVid at 15 Hz through :mod:`gosvae_tools.link.channel` on simulated time,
once for every stream, link and seed, and writes figures as JSON and plots. A run that was
interrupted continues. Networks and codecs take no simulated time: ages are of the link alone.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from gosvae_codec import GosvaeError, ModelBundle
from gosvae_codec.draft import write_text
from gosvae_codec.labels import UNLABELLED
from gosvae_codec.masks import Mask
from gosvae_codec.metrics import ConfusionMatrix
from gosvae_tools.drives import open_source
from gosvae_tools.link.channel import Channel, Counters, LinkSpec

from .files import BUNDLE, save_figure
from .link_streams import RATE, STREAMS, Image, Networks, Shown, Stream
from .tables import markdown_table, number

AXES = {
    "loss": ("delay=50ms", ("0%", "1%", "2%", "5%", "10%", "20%", "30%")),
    "delay": ("loss=10%", ("20ms", "50ms", "150ms")),
    # The queue holds a JPEG image; a burst larger than the queue would never arrive.
    "rate": ("delay=50ms queue=64kB", ("16kbit", "32kbit", "64kbit", "128kbit", "256kbit")),
}
"""What is varied: the other properties of the link, and the values."""
SEEDS = (1, 2, 3)
TICK = 0.05
DRAIN = 3.0
"""Seconds after the last frame in which datagrams may still arrive."""


class Drive(NamedTuple):
    """Frames, uint8 (H, W, 3) RGB, and their true masks, uint8 (H, W), at 15 Hz."""

    frames: Sequence[Image]
    labels: Sequence[Mask]


class Cell(NamedTuple):
    """One stream over one link."""

    stream: str
    link: str

    @property
    def key(self) -> str:
        """Return its name in the JSON."""
        return f"{self.stream}; {self.link}"


@dataclass
class Run:
    """Times and bytes of a drive's datagrams, the link's counters, and masks with their times."""

    sent: list[tuple[float, int]]
    counters: Counters
    shown: list[tuple[float, Shown]]


def cells() -> Iterator[Cell]:
    """Yield every stream over every link with every seed."""
    links = dict.fromkeys(
        f"{axis}={value} {rest} seed={seed}"
        for axis, (rest, values) in AXES.items()
        for value in values
        for seed in (SEEDS if axis != "rate" else SEEDS[:1])
    )
    yield from itertools.starmap(Cell, itertools.product(STREAMS, links))


def simulate(stream: Stream, spec: LinkSpec, count: int) -> Run:
    """Send `count` frames of a stream at 15 Hz, and return the datagrams and masks."""
    there, back = Channel(spec, "vehicle"), Channel(spec, "edge")
    order = itertools.count()
    events: list[tuple[float, int, str, Any]] = []
    sent: list[tuple[float, int]] = []
    shown: list[tuple[float, Shown]] = []

    def at(time: float, what: str, content: Any = None) -> None:
        heapq.heappush(events, (time, next(order), what, content))

    end = count / RATE + DRAIN
    for index in range(count):
        at(index / RATE, "frame", index)
    for tick in range(int(end / TICK)):
        at(tick * TICK, "tick")
    while events:
        time, _, what, content = heapq.heappop(events)
        if what == "frame":
            for datagram in stream.send(content, time):
                sent.append((time, datagram.size))
                arrival = there.send(time, datagram.size)
                if arrival is not None:
                    at(arrival, "arrival", datagram)
        elif what == "arrival":
            shown += ((time, each) for each in stream.receive(content, time))
        elif what == "tick":
            shown += ((time, each) for each in stream.tick(time))
        else:
            stream.on_feedback(content, time)
        if what in ("arrival", "tick") and (said := stream.feedback(time)) is not None:
            arrival = back.send(time, said.size)
            if arrival is not None:
                at(arrival, "feedback", said)
    return Run(sent, there.counters, shown)


def judge(run: Run, drive: Drive) -> dict[str, float]:
    """Return the figures of a run.

    Returns:
        ``miou``: of the mask of each frame or, where none arrived, of an earlier frame;
        ``live_miou``: of the newest mask that has arrived when each frame is taken, which is what a
        planner has; ``coverage``: mean over the masks that arrived; ``masks``: share of the frames
        whose mask arrived; ``mask_age_ms``: p50 and p95 of the time from a frame to its mask;
        ``live_age_ms``: p50 and p95 of the age of the newest mask at the times of frames, from the
        first mask on; ``longest_gap_ms`` without a new mask; ``kbit_per_s`` sent, headers down to
        Ethernet's included, and ``peak_kbit_per_s`` of any second; ``lost`` and ``dropped``: share
        of the datagrams lost in the air and by the queue.
    """
    count = len(drive.frames)
    masks = {each.index: each.mask for _, each in run.shown}
    truth, live = ConfusionMatrix(), ConfusionMatrix()
    mask = newest = np.full_like(drive.labels[0], UNLABELLED)
    ages: list[float] = []
    coming = iter(sorted(run.shown, key=lambda each: each[0]))
    following = next(coming, None)
    stamp: float | None = None
    for index, label in enumerate(drive.labels):
        now = index / RATE
        mask = masks.get(index, mask)
        truth.add(label, mask)
        while following is not None and following[0] <= now:
            newest, stamp = following[1].mask, following[1].index / RATE
            following = next(coming, None)
        if stamp is not None:
            live.add(label, newest)
            ages.append(now - stamp)
    times = [0.0, *(time for time, _ in run.shown)]
    delays = [time - each.index / RATE for time, each in run.shown]
    gaps = np.diff([*times, max(times[-1], (count - 1) / RATE)])

    def milliseconds(values: Sequence[float]) -> dict[str, float | None]:
        return {
            f"p{share}": round(float(np.percentile(values, share)) * 1e3, 1) if values else None
            for share in (50, 95)
        }

    return {
        "miou": round(truth.miou(), 4),
        "live_miou": round(live.miou(), 4) if ages else None,
        "coverage": round(float(np.mean([each.coverage for _, each in run.shown] or [0])), 4),
        "masks": round(len(masks) / count, 4),
        "mask_age_ms": milliseconds(delays),
        "live_age_ms": milliseconds(ages),
        "longest_gap_ms": round(float(gaps.max()) * 1e3, 1),
        "kbit_per_s": round(run.counters.bytes * 8 / 1000 / (count / RATE), 2),
        "peak_kbit_per_s": round(_peak(run.sent) * 8 / 1000, 2),
        "lost": round(run.counters.lost / max(run.counters.packets, 1), 4),
        "dropped": round(run.counters.dropped / max(run.counters.packets, 1), 4),
    }


def _peak(sent: Sequence[tuple[float, int]]) -> int:
    """Return the highest number of bytes sent within any second."""
    most = size = first = 0
    for time, each in sent:
        size += each
        while sent[first][0] <= time - 1:
            size -= sent[first][1]
            first += 1
        most = max(most, size)
    return most


def load(root: Path) -> Drive:
    """Read the val split of CamVid in the folder `root`.

    Raises:
        SourceError: there is none.
    """
    frames = list(open_source(root / "val").frames())
    labels = [frame.label for frame in frames]
    if any(label is None for label in labels):
        raise GosvaeError(f"{root / 'val'} has no labels in valannot beside it")
    return Drive([frame.image for frame in frames], labels)


def sweep(bundle: ModelBundle, drive: Drive, path: Path) -> dict[str, Any]:
    """Simulate the cells that the JSON file `path` lacks, and return its content."""
    about = {
        "bundle": f"{bundle.name} {bundle.fingerprint:016x}",
        "data": f"{len(drive.frames)} frames of CamVid val at {RATE} Hz",
    }
    results: dict[str, Any] = {**about, "cells": {}}
    if path.exists():
        results = json.loads(path.read_text())
        if {name: results.get(name) for name in about} != about:
            raise GosvaeError(f"{path} is of another bundle or drive: remove it, or name another")
    todo = [cell for cell in cells() if cell.key not in results["cells"]]
    networks = Networks(bundle)
    for cell in track(todo, "simulating", disable=not todo):
        spec = LinkSpec.parse(cell.link)
        stream = STREAMS[cell.stream](networks, drive.frames, spec.rate)
        run = simulate(stream, spec, len(drive.frames))
        results["cells"][cell.key] = judge(run, drive)
        write_text(path, json.dumps(results, indent=1) + "\n")
    return results


PANELS = {
    "miou": "mIoU, frame by frame",
    "live_miou": "mIoU, newest mask at each frame",
    "coverage": "coverage",
    "live_age_ms.p95": "age of the newest mask, p95, ms",
    "longest_gap_ms": "longest time without a mask, ms",
    "kbit_per_s": "kbit/s",
}


def series(results: dict[str, Any], stream: str, axis: str, figure: str) -> list[list[float]]:
    """Return a figure of a stream along an axis: a list over the seeds for each of its values."""
    rest, values = AXES[axis]
    points = []
    for value in values:
        points.append([])
        for seed in SEEDS:
            found: Any = results["cells"].get(f"{stream}; {axis}={value} {rest} seed={seed}")
            for name in figure.split("."):
                found = found and found[name]
            if found is not None:
                points[-1].append(found)
    return points


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw all figures over all axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(PANELS), len(AXES), figsize=(14, 3 * len(PANELS)), squeeze=False
    )
    for row, (name, title) in zip(grid, PANELS.items(), strict=True):
        for axes, (axis, (rest, values)) in zip(row, AXES.items(), strict=True):
            for stream in STREAMS:
                points = series(results, stream, axis, name)
                places = [place for place, each in enumerate(points) if each]
                means = [np.mean(points[place]) for place in places]
                lines = axes.plot(places, means, marker="o", label=stream)
                low, high = ([f(points[place]) for place in places] for f in (min, max))
                axes.fill_between(places, low, high, alpha=0.15, color=lines[0].get_color())
            if name in ("kbit_per_s", "live_age_ms.p95", "longest_gap_ms"):
                axes.set_yscale("log")
            axes.set_xticks(range(len(values)), values)
            axes.set_xlabel(f"{axis}, {rest}")
            axes.set_title(title, fontsize=10)
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.suptitle(f"{results['data']}, {results['bundle'].split()[0]}; mean and range over seeds")
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    save_figure(figure, path, 90)


FIGURES = {
    "miou": "mIoU",
    "live_miou": "mIoU, newest",
    "coverage": "coverage",
    "mask_age_ms.p50": "age p50",
    "mask_age_ms.p95": "p95, ms",
    "longest_gap_ms": "longest gap, ms",
    "kbit_per_s": "kbit/s",
    "peak_kbit_per_s": "of any second",
}


def table(results: dict[str, Any]) -> str:
    """Return the main figures in Markdown: means over the seeds; of gaps and peaks the worst."""
    parts = []
    for axis, (rest, values) in AXES.items():
        rows = [
            (value, stream, *(_figure(results, stream, axis, name, place) for name in FIGURES))
            for place, value in enumerate(values)
            for stream in STREAMS
        ]
        header = [f"{axis}, {rest}", "stream", *FIGURES.values()]
        parts.append(f"{markdown_table(header, rows)}\n")
    return "\n".join(parts)


def _figure(results: dict[str, Any], stream: str, axis: str, name: str, place: int) -> str:
    """Return a figure at one place of an axis, for the table."""
    found = series(results, stream, axis, name)[place]
    worst = name in ("longest_gap_ms", "peak_kbit_per_s")
    share = name in ("miou", "live_miou", "coverage")
    value = (max if worst else np.mean)(found) if found else None
    return number(value, ".3f" if share else ".0f")


def main(arguments: list[str] | None = None) -> int:
    """Simulate the missing cells, then print the table and draw the plots."""
    parser = argparse.ArgumentParser(prog="gosvae_bench.link_sweep", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="root of CamVid")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--output", type=Path, default=Path("out/sweep"), help="folder")
    options = parser.parse_args(arguments)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        bundle = ModelBundle.load(options.bundle)
        results = sweep(bundle, load(options.data), options.output / "sweep.json")
    except (GosvaeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(results))
    plot(results, options.output / "sweep.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
