"""Write the pipeline's results into docs/pipeline.md: ``python -m gosvae_bench.report_system``.

Reads docs/pipeline.json, draws the latency of a frame by stage, and replaces the text between
``<!-- pipeline: NAME -->`` and ``<!-- end -->`` in docs/pipeline.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gosvae_codec.draft import write_text

from .curves import IMAGES, ROOT
from .files import save_figure
from .pictures import load_pyplot
from .report import fill_in
from .stages import NETWORKS
from .system import DROPS
from .system_results import SIZES, TRANSPORTS
from .tables import markdown_table, number

RESULTS = ROOT / "docs" / "pipeline.json"
PAGE = ROOT / "docs" / "pipeline.md"
PICTURES = ("colour", "publish colour")
"""Stages after the mask, run only while someone subscribes to coloured masks."""
RATE = 15.0
"""Rate in Hz of the rows in the plot and the summary."""
SUMMARY_SIZE = "480x360"

Row = Mapping[str, Any]


def setup(results: Row) -> str:
    """Return the data, machine and versions of the measurement."""
    machine, data = results["machine"], results["data"]
    named = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"Bundle `{results['bundle']}`, expert `{results['expert']}`, frames of {data['name']} "
        f"(SHA-256 `{data['sha256'][:16]}`) scaled; {machine['cores']} cores of {machine['cpu']}, "
        f"no GPU, {results['date']}; {named}."
    )


def _latency(row: Row) -> list[str]:
    return [number(row["latency_ms"][f"p{share}"]) for share in (50, 95, 99)]


def _cpu(row: Row, who: str) -> str:
    share = row["cpu"].get(who)
    return "-" if share is None else f"{share:.0%}"


def rows(results: Row) -> str:
    """Return all rows as a table."""
    heads = ["what crosses", "frames", "cameras", "Hz each", "frames sent", "lost"]
    heads += ["latency p50, ms", "p95", "p99", "of which to what is sent", "from there to the mask"]
    heads += ["CPU vehicle", "edge", "camera", "RSS vehicle, MB", "edge", "CPU of others"]
    lines = [
        [
            row["transport"],
            row["size"],
            str(row["cameras"]),
            f"{row['rate']:g}",
            str(row["frames"]),
            f"{row['drops']:.1%}",
            *_latency(row),
            *(number(row[part]) for part in ("sent_ms", "received_ms")),
            *(_cpu(row, who) for who in ("vehicle", "edge", "camera")),
            *("-".join(map(number, row["rss_mb"].get(who, [None]))) for who in ("vehicle", "edge")),
            f"{row['cpu_of_others']:.0%}",
        ]
        for row in results["runs"]
    ]
    return markdown_table(heads, lines)


def sustained(results: Row) -> str:
    """Return the highest sustained rates as a table."""
    heads = ["what crosses", "frames", "highest rate, Hz", "lost", "latency p50, ms", "p95", "p99"]
    heads += ["CPU vehicle", "edge"]
    lines = [
        [
            row["transport"],
            row["size"],
            f"{row['rate']:g}",
            *(
                [f"{row['drops']:.1%}", *_latency(row), _cpu(row, "vehicle"), _cpu(row, "edge")]
                if row["rate"]
                else ["-"] * 6
            ),
        ]
        for row in results["sustained"]
    ]
    return markdown_table(heads, lines)


def soak(results: Row) -> str:
    """Return the memory over the soak test as a table."""
    found = results["soak"]
    if found is None:
        return "Not measured."
    lines = []
    for who, values in found["rss_mb"].items():
        minute = min(round(60 / found["step_s"]), len(values) - 2)
        steady = values[minute:]
        hours = np.arange(len(steady)) * found["step_s"] / 3600
        slope = np.polyfit(hours, steady, 1)[0]
        ends = (values[0], values[minute], values[-1], max(steady) - min(steady))
        lines.append([who, *(number(value, ".1f") for value in ends), number(slope, "+.1f")])
    heads = ["RSS, MB", "at the begin", "after a minute", "at the end"]
    heads += ["spread after the first minute", "MB an hour"]
    return (
        f"{found['seconds']:.0f} s of {found['size']} at {found['rate']:g} Hz, {found['masks']} "
        f"masks of {found['frames']} frames:\n\n{markdown_table(heads, lines)}"
    )


def _stages(columns: Mapping[str, Mapping[str, float]]) -> str:
    names = list(next(iter(columns.values())))
    lines = [[name, *(number(columns[size][name], ".2f") for size in columns)] for name in names]
    beside = [sum(v for k, v in each.items() if k not in NETWORKS) for each in columns.values()]
    lines.append(["**all but the networks**", *(f"**{each:.2f}**" for each in beside)])
    return markdown_table(["stage, ms", *columns], lines)


def _find(results: Row, transport: str, size: str, rate: float = RATE) -> Row | None:
    for row in results["runs"]:
        if (row["transport"], row["size"], row["cameras"], row["rate"]) == (
            transport,
            size,
            1,
            rate,
        ):
            return dict(row)
    return None


def summary(results: Row) -> str:
    """Return a table of the transports at one size."""
    heads = ["what crosses", f"lost at {RATE:g} Hz", "latency p50, ms", "p95", "p99"]
    heads += ["CPU vehicle", "edge"]
    heads += [f"highest rate with under {DROPS:.0%} lost, Hz"]
    best = {(row["transport"], row["size"]): row["rate"] for row in results["sustained"]}
    lines = []
    for transport in TRANSPORTS:
        row = _find(results, transport, SUMMARY_SIZE)
        if row is not None:
            rate = number(best.get((transport, SUMMARY_SIZE)), ".1f")
            cpu = [_cpu(row, who) for who in ("vehicle", "edge")]
            lines.append([transport, f"{row['drops']:.1%}", *_latency(row), *cpu, rate])
    return markdown_table(heads, lines)


BLOCKS: dict[str, Callable[[Row], str]] = {
    "setup": setup,
    "rows": rows,
    "sustained": sustained,
    "soak": soak,
    "stages": lambda results: _stages(results["stages"]),
    "references": lambda results: _stages(results["references"]),
    "summary": summary,
}


def render(text: str, results: Row) -> str:
    """Return the page with its blocks made from results; see :func:`fill_in`."""
    return fill_in(text, "pipeline", BLOCKS, results)


def breakdown(results: Row, transport: str, size: str) -> dict[str, float] | None:
    """Return the milliseconds of each stage of the median latency, the unexplained rest last.

    None if there is no such row. The rest is DDS between the processes, waiting for a thread or the
    core, and Python between the stages.
    """
    row = _find(results, transport, size)
    if row is None or row["latency_ms"]["p50"] is None:
        return None
    ours, theirs = results["stages"][size], results["references"][size]
    if transport == "tokens":
        parts = {name: ms for name, ms in ours.items() if name not in PICTURES}
    else:
        parts = {"convert": ours["convert"], **theirs, "publish mask": ours["publish mask"]}
        if transport == "raw":
            parts = {name: ms for name, ms in parts.items() if not name.startswith("JPEG")}
    rest = row["latency_ms"]["p50"] - sum(parts.values())
    return {**parts, "DDS, queues and waiting": round(max(rest, 0.0), 3)}


def plot(results: Row, path: Path) -> None:
    """Draw the median latency of each transport and size, stage by stage."""
    pyplot = load_pyplot()
    bars = {
        f"{transport}, {size}": parts
        for size in SIZES
        for transport in TRANSPORTS
        if (parts := breakdown(results, transport, size)) is not None
    }
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    names.append(names.pop(names.index("DDS, queues and waiting")))
    shades = pyplot.get_cmap("tab20").colors
    figure, axes = pyplot.subplots(figsize=(12, 5.5))
    left = np.zeros(len(bars))
    for name, shade in zip(names, shades, strict=False):
        widths = np.array([parts.get(name, 0.0) for parts in bars.values()])
        color = "lightgrey" if name == "DDS, queues and waiting" else shade
        hatch = "//" if name in NETWORKS else None
        axes.barh(list(bars), widths, left=left, color=color, label=name, hatch=hatch)
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel(f"median from stamp to mask at {RATE:g} Hz, ms; networks hatched")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    save_figure(figure, path, 90)


def main() -> int:
    """Draw the plot and fill in the page."""
    results = json.loads(RESULTS.read_text())
    write_text(PAGE, render(PAGE.read_text(), results))
    plot(results, IMAGES / "pipeline-latency.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
