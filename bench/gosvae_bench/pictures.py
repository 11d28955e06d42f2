"""Plots of the benchmark's results, and pictures of what each receiver decodes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .curves import (
    Row,
    by_codec,
    front,
    nearest,
    tokens_of,
    tuned_experts,
)
from .files import save_figure

STRIP_FRAME = 20
"""Index of the frame that the strip of pictures shows."""
MARKERS = "PX^vD*oshdp<>8H"
"""Of the methods of the paper, in the order of their study."""


def load_pyplot() -> Any:
    """Return pyplot, set to draw to files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _ceiling(results: Row) -> float:
    """Return the mIoU of the bundle's expert on frames without loss."""
    return float(max(row["miou"] for row in results["rows"] if row["agreement"] == 1))


def plot_quality(results: Row, path: Path) -> None:
    """Draw mIoU and agreement over bytes: a line for each codec, dashed with a tuned expert.

    Marks are the methods of the paper, of the study on the same drive: short trainings, their bytes
    without packet headers.
    """
    pyplot = load_pyplot()
    figure, panels = pyplot.subplots(1, 2, figsize=(14, 8), layout="constrained")
    ceiling = _ceiling(results)
    colors = pyplot.get_cmap("tab20").colors
    codecs = by_codec(results["rows"], results["expert"])
    tuned = [by_codec(results["rows"], expert) for expert in tuned_experts(results)]
    study = results["studies"].get("paper", {"rows": {}})["rows"]
    methods = {name: row for name, row in study.items() if row.get("training")}
    for axes, what in zip(panels, ("miou", "agreement"), strict=True):
        for color, (name, rows) in zip(colors * 3, codecs.items(), strict=False):
            bold = rows[0]["sends"] != "pixels"
            curve = front(rows, what)
            places = [row["bytes_per_frame"] for row in curve]
            values = [row[what] for row in curve]
            spread = np.transpose([row[f"{what}_ci95"] for row in curve]) - values
            axes.errorbar(
                places,
                values,
                np.abs(spread) if bold else None,
                label=name,
                color=color,
                marker="o" if bold else ".",
                linewidth=2.5 if bold else 1,
                capsize=3,
            )
            for each in () if bold else tuned:
                curve = front(each[name], what) if name in each else []
                axes.plot(
                    [row["bytes_per_frame"] for row in curve],
                    [row[what] for row in curve],
                    color=color,
                    linestyle="--",
                    linewidth=1,
                )
        for marker, (name, row) in zip(MARKERS, methods.items(), strict=False):
            axes.plot(
                row["payload_bytes"],
                row[what],
                marker=marker,
                markersize=9,
                linestyle="",
                color="black",
                label=f"{name}, short training",
            )
        axes.set_xscale("log")
        axes.set_xlabel("bytes a frame")
        axes.grid(alpha=0.3, which="both")
    panels[0].axhline(ceiling, color="black", linestyle=":", label="expert, no codec")
    for expert in tuned_experts(results):
        panels[0].plot([], [], color="grey", linestyle="--", label=f"the same seen by {expert}")
    panels[0].set_ylabel("mIoU against labels, 95% intervals for labels and tokens")
    panels[1].set_ylabel("agreement with the expert")
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path, 90)


def plot_frontier(results: Row, path: Path) -> None:
    """Draw vehicle time over bytes, coloured by mIoU, with rings around the Pareto front.

    Pictures have the mIoU of the expert that is best on them.
    """
    pyplot = load_pyplot()
    ceiling = _ceiling(results)
    figure, axes = pyplot.subplots(figsize=(10, 6.5))
    best_seen: dict[tuple[str, str], Row] = {}
    for row in results["rows"]:
        place = row["codec"], row["setting"]
        if row["encode_ms"] is not None and (
            place not in best_seen or row["miou"] > best_seen[place]["miou"]
        ):
            best_seen[place] = row
    rows = list(best_seen.values())
    marks = {"pixels": "o", "labels": "s", "tokens": "*"}
    for sends, marker in marks.items():
        some = [row for row in rows if row["sends"] == sends]
        points = axes.scatter(
            [row["bytes_per_frame"] for row in some],
            [row["encode_ms"] for row in some],
            c=[row["miou"] for row in some],
            s=160 if marker == "*" else 50,
            marker=marker,
            vmin=0.5 * ceiling,
            vmax=max(row["miou"] for row in rows),
            cmap="viridis",
            label=sends,
        )
    costs = ("bytes_per_frame", "encode_ms")

    def beaten(row: Row) -> bool:
        return any(
            all(each[cost] <= row[cost] for cost in costs)
            and each["miou"] >= row["miou"]
            and each is not row
            for each in rows
        )

    best = [row for row in rows if not beaten(row) and row["miou"] > 0.8 * ceiling]
    axes.scatter(
        [row["bytes_per_frame"] for row in best],
        [row["encode_ms"] for row in best],
        s=300,
        facecolors="none",
        edgecolors="red",
        label="unbeaten, over 0.8 of the expert's mIoU",
    )
    for row in best:
        axes.annotate(
            row["codec"],
            (row["bytes_per_frame"], row["encode_ms"]),
            xytext=(8, 8),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("bytes a frame")
    axes.set_ylabel("vehicle's time a frame on one core, ms (p50)")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.colorbar(points, label="mIoU")
    figure.tight_layout()
    save_figure(figure, path, 90)


def strip(results: Row, data: Path, reference: Path, path: Path) -> None:
    """Draw the receivers' pictures and masks of one frame at about the bytes of our tokens."""
    from gosvae_codec import ModelBundle
    from gosvae_codec.masks import colorize, resize_mask

    from .contenders import contenders, find_bundles, open_expert
    from .labelled import Drive, unpack

    bundle = ModelBundle.load(reference)
    size = tokens_of(results)[-1]["bytes_per_frame"]
    chosen = [
        nearest(rows, size)
        for name, rows in by_codec(results["rows"], results["expert"]).items()
        if not name.endswith("intra") and name != "PNG"
    ]
    with tempfile.TemporaryDirectory() as folder:
        drive = Drive(Path(folder))
        unpack(data, STRIP_FRAME + 1, bundle, drive)
        camera = drive.frame(0).shape[:2]
        found = {e.key: e for e in contenders(bundle, find_bundles(reference.parent), camera)}
        # Rows of bundles that are no longer there have figures, but no picture.
        chosen = [row for row in chosen if row["key"] in found]
        expert = open_expert(bundle, None)
        last = drive.frame(len(drive) - 1)
        panels = [("the frame and its labels", last, drive.label(len(drive) - 1))]
        panels.append(("the expert, no codec", last, expert.segment(last)))
        for row in chosen:
            codec = found[row["key"]].make()
            for index in range(len(drive)):
                made = codec.decode(codec.encode(drive.frame(index)))
            picture = made if made.ndim == 3 else np.full((*made.shape, 3), 255, np.uint8)
            mask = expert.segment(made) if made.ndim == 3 else made
            title = f"{row['codec']}, {row['bytes_per_frame']:.0f} bytes, {row['miou']:.3f}"
            panels.append((title, picture, mask))
        pyplot = load_pyplot()
        columns = -(-len(panels) // 2)
        figure, grid = pyplot.subplots(4, columns, figsize=(3.2 * columns, 10.5))
        for axes in grid.flat:
            axes.axis("off")
        for place, (title, picture, mask) in enumerate(panels):
            top, column = place // columns * 2, place % columns
            shown = cv2.resize(picture, (480, 360), interpolation=cv2.INTER_AREA)
            grid[top, column].imshow(shown)
            grid[top, column].set_title(title, fontsize=8)
            small = resize_mask(np.ascontiguousarray(mask), (360, 480))
            grid[top + 1, column].imshow(colorize(small, bundle.labels))
        figure.tight_layout()
        save_figure(figure, path, 70)
