"""Benchmark results to pictures, tables and words: ``python -m gosvae_bench.report``.

Reads docs/benchmark.json and docs/studies/*.json, draws the plots in docs/images, and fills in
what stands between ``<!-- benchmark: NAME -->`` and ``<!-- end -->`` in README.md and
docs/benchmark.md. With ``--data`` it also draws what each codec's receiver sees.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bjontegaard
import cv2
import numpy as np

from .files import write_whole
from .tables import markdown_table, number

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmark.json"
STUDIES = ROOT / "docs" / "studies"
IMAGES = ROOT / "docs" / "images"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmark.md")
BUNDLE = "camvid-base"
"""Whose masks others are asked to match."""
ANCHOR = "JPEG"
"""Against which rate differences are."""
STRIP_FRAME = 20
"""Frame that the strip of pictures shows, and how many come before it."""

Row = Mapping[str, Any]


# --- numbers


def load_results(path: Path = RESULTS, studies: Path = STUDIES) -> dict[str, Any]:
    """Return the benchmark's results, and by name under ``studies`` those of training's studies."""
    found = {each.stem: json.loads(each.read_text()) for each in sorted(studies.glob("*.json"))}
    return {**json.loads(path.read_text()), "studies": found}


def tuned_experts(results: Row) -> list[str]:
    """Return the receiver's experts besides the bundle's own."""
    experts = (row["expert"] for row in results["rows"])
    return [each for each in dict.fromkeys(experts) if each not in (None, results["expert"])]


def by_codec(rows: Sequence[Row], expert: str) -> dict[str, list[Row]]:
    """Return the rows of each codec in order; of those with an expert only where it is `expert`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["expert"] in (None, expert):
            found.setdefault(name_of(row), []).append(row)
    return found


def name_of(row: Row) -> str:
    """Return the name of a row's curve: of tokens, predicted and intra are two."""
    if row["sends"] != "tokens":
        return str(row["codec"])
    return f"tokens of {row['codec']}, {row['setting'].rpartition(', ')[2]}"


def front(rows: Sequence[Row], figure: str = "miou") -> list[Row]:
    """Return the rows that no cheaper row equals or beats in `figure`, by bytes."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda each: (each["bytes_per_frame"], -each[figure])):
        if not best or row[figure] > best[-1][figure]:
            best.append(row)
    return best


def bytes_for(rows: Sequence[Row], miou: float) -> float | None:
    """Return the bytes a frame at which a codec reaches an mIoU, its settings interpolated.

    Logarithms of bytes are interpolated linearly over mIoU between neighbours on the front. None
    where no setting is as good; the cheapest setting's bytes where it is better already.
    """
    curve = front(rows)
    quality = [row["miou"] for row in curve]
    if miou > quality[-1]:
        return None
    return float(
        np.exp(np.interp(miou, quality, [np.log(row["bytes_per_frame"]) for row in curve]))
    )


def rate_difference(anchor: Sequence[Row], other: Sequence[Row]) -> float | None:
    """Return the Bjøntegaard rate difference in percent at equal mIoU, over the common range.

    Piecewise cubic (PCHIP) over the fronts, from bjontegaard (Herglotz et al. 2022). None where
    the ranges do not meet.
    """
    curves = [front(anchor), front(other)]
    low = max(curve[0]["miou"] for curve in curves)
    high = min(curve[-1]["miou"] for curve in curves)
    if low >= high or min(map(len, curves)) < 2:
        return None
    (rates, qualities), (others, their) = (
        ([row["bytes_per_frame"] for row in curve], [row["miou"] for row in curve])
        for curve in curves
    )
    return float(
        bjontegaard.bd_rate(
            rates, qualities, others, their, "pchip", require_matching_points=False, min_overlap=0
        )
    )


def dominated(row: Row, others: Sequence[Row]) -> list[Row]:
    """Return those of `others` that take no more bytes for masks that are no worse."""
    return [
        each
        for each in others
        if each["bytes_per_frame"] <= row["bytes_per_frame"] and each["miou"] >= row["miou"]
    ]


def _nearest(rows: Sequence[Row], size: float) -> Row:
    return min(rows, key=lambda row: abs(np.log(row["bytes_per_frame"] / size)))


# --- words and tables


def setup(results: Row) -> str:
    """Say what was measured where."""
    data, machine, versions = results["data"], results["machine"], results["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{data['frames']} frames of {data['size']}, SHA-256 `{data['sha256'][:16]}`, expert "
        f"`{results['expert']}`; {machine['cores']} cores of {machine['cpu']}, no GPU, "
        f"{results['date']}; {named}."
    )


def coverage(results: Row) -> str:
    """Say how many settings of each codec of pictures each expert has seen so far."""
    lines = []
    for expert in (results["expert"], *tuned_experts(results)):
        codecs = by_codec([row for row in results["rows"] if row["sends"] == "pixels"], expert)
        seen = ", ".join(f"{name} {len(rows)}" for name, rows in codecs.items())
        lines.append(f"- `{expert}`: {seen}.")
    return "\n".join(lines)


def tokens_of(results: Row, bundle: str = BUNDLE) -> list[Row]:
    """Return the rows of a bundle's predicted tokens, by levels."""
    return [
        row
        for row in results["rows"]
        if row["codec"] == bundle and row["setting"].endswith("predicted")
    ]


def summary(results: Row) -> str:
    """Return what each codec needs for the masks that our tokens bring.

    After slashes as tuned experts see it, "?" where they have not seen the settings that tell.
    """
    ours = tokens_of(results)
    targets = [row["miou"] for row in ours]
    heads = ["what is sent", *(f"bytes for mIoU {target:.3f}" for target in targets)]
    heads += ["best mIoU", "vehicle GMACs", "encode, ms", "decode, ms"]
    tuned = [by_codec(results["rows"], expert) for expert in tuned_experts(results)]

    def need(rows: Sequence[Row], target: float, settings: int) -> str:
        curve = front(rows)
        if len(rows) < settings and not curve[0]["miou"] <= target <= curve[-1]["miou"]:
            return "?"
        size = bytes_for(rows, target)
        return "never" if size is None else number(size)

    lines = []
    for name, rows in by_codec(results["rows"], results["expert"]).items():
        reached = [size for target in targets if (size := bytes_for(rows, target)) is not None]
        row = _nearest(rows, reached[-1] if reached else 1e9)
        others = [codecs[name] for codecs in tuned if row["sends"] == "pixels" and name in codecs]
        every = [rows, *others]
        lines.append(
            [
                name,
                *(
                    " / ".join(need(each, target, len(rows)) for each in every)
                    for target in targets
                ),
                " / ".join(f"{_best(each):.3f}" for each in every),
                number(row["vehicle_macs"], ".2f", 1e9),
                number(row["encode_ms"], ".1f"),
                number(row["decode_ms"], ".1f"),
            ]
        )
    return markdown_table(heads, lines)


def _best(rows: Sequence[Row]) -> float:
    return float(max(row["miou"] for row in rows))


def _called(row: Row, results: Row) -> str:
    """Return codec, setting and, where it is not the bundle's, the receiver's expert."""
    by = f", seen by {row['expert']}" if row["expert"] not in (None, results["expert"]) else ""
    return f"{row['codec']}, {row['setting']}{by}"


def losses(results: Row) -> str:
    """Say where something else is the better choice than the bundle that ships as the default."""
    rows, ours = results["rows"], tokens_of(results)
    lines = _defeats(results, ours)
    best = _best(ours)
    ceilings = []
    pixels = [row for row in rows if row["sends"] == "pixels"]
    for name, codec in _any_expert(pixels).items():
        better = [row for row in front(codec) if row["miou"] > best]
        if better:
            row = better[0]
            ceilings.append(
                f"{name} {row['miou']:.3f} at {row['bytes_per_frame']:.0f} bytes in "
                f"{number(row['encode_ms'])} ms"
            )
    if ceilings:
        lines.append(
            "- Where the link carries more, pictures bring better masks than any tokens of "
            f"{BUNDLE} ({best:.3f}), without a network in the vehicle: {', '.join(ceilings)}."
        )
    return "\n".join(lines) or "- Nothing measured is cheaper and better."


def others(results: Row) -> str:
    """Say the same for each of the other bundles that send tokens."""
    tokens = [row for row in results["rows"] if row["sends"] == "tokens"]
    names = [name for name in dict.fromkeys(row["codec"] for row in tokens) if name != BUNDLE]
    lines = [line for name in names for line in _defeats(results, tokens_of(results, name))]
    return "\n".join(lines) or "- Nothing measured is cheaper and better."


def _defeats(results: Row, ours: Sequence[Row]) -> list[str]:
    rivals: dict[str, list[Row]] = {}
    for row in results["rows"]:
        if row["sends"] != "tokens" and any(dominated(each, [row]) for each in ours):
            rivals.setdefault(row["codec"], []).append(row)
    lines = []
    for some in rivals.values():
        # Of a codec, the setting with the best masks for each number of levels tells enough.
        chosen: dict[str, tuple[Row, list[Row]]] = {}
        for each in ours:
            better = dominated(each, some)
            if better:
                rival = max(better, key=lambda row: (row["miou"], -row["bytes_per_frame"]))
                chosen.setdefault(rival["key"], (rival, []))[1].append(each)
        lines += [_loss(rival, beaten, results) for rival, beaten in chosen.values()]
    return lines


def _loss(rival: Row, beaten: Sequence[Row], results: Row) -> str:
    row = beaten[-1]
    levels = " and ".join(each["setting"].partition(",")[0] for each in beaten)
    macs, our_macs = (number(each["vehicle_macs"], ".2f", 1e9) for each in (rival, row))
    took, we_took = (number(each["encode_ms"]) for each in (rival, row))
    return (
        f"- **{_called(rival, results)}: {rival['miou']:.3f} mIoU at "
        f"{rival['bytes_per_frame']:.0f} bytes** beats {levels} of {row['codec']}, "
        f"{row['miou']:.3f} at {row['bytes_per_frame']:.0f} bytes. It costs the vehicle "
        f"{macs} GMACs and {took} ms instead of {our_macs} and {we_took}."
    )


def _any_expert(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by the names of their curves, whatever expert looks at them."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(name_of(row), []).append(row)
    return found


def everything(results: Row) -> str:
    """Return all rows."""
    heads = [
        "codec",
        "setting",
        "expert",
        "bytes",
        "on the wire",
        "mIoU",
        "95%",
        "agreement",
        "95%",
    ]
    heads += ["GMACs vehicle", "receiver", "encode ms p50", "p95", "decode ms p50", "p95"]
    heads += ["encoder MB", "decoder MB"]

    def interval(pair: Sequence[float] | None) -> str:
        return "-" if pair is None else f"{pair[0]:.3f}-{pair[1]:.3f}"

    lines = [
        [
            row["codec"],
            row["setting"],
            {None: "", results["expert"]: "bundle's"}.get(row["expert"], row["expert"]),
            number(row["bytes_per_frame"]),
            number(row["wire_bytes_per_frame"]),
            number(row["miou"], ".3f"),
            interval(row["miou_ci95"]),
            number(row["agreement"], ".3f"),
            interval(row["agreement_ci95"]),
            number(row["vehicle_macs"], ".2f", 1e9),
            number(row["receiver_macs"], ".2f", 1e9),
            *(
                number(row[name], ".1f")
                for name in ("encode_ms", "encode_ms_p95", "decode_ms", "decode_ms_p95")
            ),
            number(row["encode_mb"]),
            number(row["decode_mb"]),
        ]
        for row in results["rows"]
    ]
    return markdown_table(heads, lines)


def _size(row: Row) -> str:
    return str(row["setting"]).rpartition(", ")[2]


def differences(results: Row) -> str:
    """Return the rate differences of all codecs against ANCHOR as the bundle's expert sees it.

    ANCHOR at those sizes at which the codec was measured, too.
    """
    codecs = by_codec(results["rows"], results["expert"])
    tuned = tuned_experts(results)
    heads = ["what is sent", f"rate against {ANCHOR}", "its range of mIoU"]
    for expert in tuned:
        heads += [f"rate, seen by {expert}", "its range"]

    def against(rows: Sequence[Row] | None) -> list[str]:
        if not rows:
            return ["", ""]
        sizes = {_size(row) for row in rows}
        anchor = [row for row in codecs[ANCHOR] if _size(row) in sizes]
        # Labels and tokens have no size: against all.
        pixels = rows[0]["sends"] == "pixels"
        if not pixels:
            anchor = codecs[ANCHOR]
        found = rate_difference(anchor, rows) if anchor else None
        low, high = (front(rows)[end]["miou"] for end in (0, -1))
        return ["-" if found is None else f"{found:+.0f}%", f"{low:.3f}-{high:.3f}"]

    others = [by_codec(results["rows"], expert) for expert in tuned]
    lines = []
    for name, rows in codecs.items():
        pixels = rows[0]["sends"] == "pixels"
        lines.append([name, *against(rows)])
        for each in others:
            lines[-1] += against(each.get(name) if pixels else None)
    return markdown_table(heads, lines)


def studies(results: Row) -> str:
    """Return the paper's ways as the studies of training have measured them."""
    heads = ["row", "payload bytes", "mIoU", "agreement", "GMACs vehicle", "receiver"]
    heads += ["training", "CPU minutes"]
    found = []
    for study in results["studies"].values():
        lines = [
            [
                name,
                number(row["payload_bytes"]),
                number(row["miou"], ".3f"),
                number(row["agreement"], ".3f"),
                number(row["vehicle_macs"], ".2f", 1e9),
                number(row["receiver_macs"], ".2f", 1e9),
                row["training"],
                number(row.get("cpu_minutes"), ".1f"),
            ]
            for name, row in study["rows"].items()
        ]
        found.append(
            f"*{study['title']}* ({study['data']}, {study['date']}):\n\n"
            f"{markdown_table(heads, lines)}"
        )
    return "\n\n".join(found) or "None of these has been trained yet."


BLOCKS: dict[str, Callable[[Row], str]] = {
    "setup": setup,
    "coverage": coverage,
    "summary": summary,
    "losses": losses,
    "others": others,
    "everything": everything,
    "differences": differences,
    "studies": studies,
}


def fill_in(text: str, mark: str, blocks: Mapping[str, Callable[[Row], str]], results: Row) -> str:
    """Return a page with what stands between ``<!-- MARK: NAME -->`` and the end made anew.

    Raises:
        KeyError: a mark names none of the blocks.
    """
    return re.sub(
        rf"<!-- {mark}: (\w+) -->\n.*?<!-- end -->",
        lambda match: f"<!-- {mark}: {match[1]} -->\n{blocks[match[1]](results)}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def rewrite(pages: Sequence[Path], change: Callable[[str], str]) -> None:
    """Change the text of each page, whole or not at all."""
    for page in pages:
        write_whole(page, change(page.read_text()))


def render(text: str, results: Row) -> str:
    """Return a page with what stands between its marks made from results; see :func:`fill_in`."""
    return fill_in(text, "benchmark", BLOCKS, results)


# --- pictures


def load_pyplot() -> Any:
    """Return pyplot, set to draw to files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_quality(results: Row, path: Path) -> None:
    """Draw mIoU and agreement over bytes, a line for each codec, dashed by tuned experts.

    The paper's ways are marks: short trainings for a study, their bytes without packet headers.
    """
    pyplot = load_pyplot()
    figure, panels = pyplot.subplots(1, 2, figsize=(14, 8), layout="constrained")
    ceiling = max(row["miou"] for row in results["rows"] if row["agreement"] == 1)
    colors = pyplot.get_cmap("tab20").colors
    codecs = by_codec(results["rows"], results["expert"])
    tuned = [by_codec(results["rows"], expert) for expert in tuned_experts(results)]
    baselines = results["studies"].get("baselines", {"rows": {}})["rows"]
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
        for marker, (name, row) in zip("xP^vD*sph", baselines.items(), strict=False):
            axes.plot(
                row["payload_bytes"],
                row[what],
                marker=marker,
                markersize=9,
                linestyle="",
                color="black",
                label=f"{name}, {row['training']}",
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
    figure.savefig(path, dpi=90)


def plot_frontier(results: Row, path: Path) -> None:
    """Draw vehicle time over bytes, coloured by mIoU; ringed is what nothing beats in all three.

    Of pictures, the mIoU by the expert that sees them best.
    """
    pyplot = load_pyplot()
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
            vmin=0.4,
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

    best = [row for row in rows if not beaten(row) and row["miou"] > 0.6]
    axes.scatter(
        [row["bytes_per_frame"] for row in best],
        [row["encode_ms"] for row in best],
        s=300,
        facecolors="none",
        edgecolors="red",
        label="unbeaten, over 0.6 mIoU",
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
    figure.savefig(path, dpi=90)


def strip(results: Row, data: Path, reference: Path, path: Path) -> None:
    """Draw what receivers have of one frame at about the bytes of all levels of our tokens."""
    from gosvae_codec import ModelBundle
    from gosvae_codec.masks import colorize, resize_mask

    from .codecs import contenders, find_bundles, open_expert
    from .rate_quality import Drive, unpack

    bundle = ModelBundle.load(reference)
    size = tokens_of(results)[-1]["bytes_per_frame"]
    chosen = [
        _nearest(rows, size)
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
        figure.savefig(path, dpi=70)


def main(arguments: list[str] | None = None) -> int:
    """Draw and fill in."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, help="frames, for the strip of pictures")
    parser.add_argument("--reference", type=Path, default=ROOT / "models" / BUNDLE)
    options = parser.parse_args(arguments)
    results = load_results()
    rewrite(PAGES, lambda text: render(text, results))
    plot_quality(results, IMAGES / "benchmark-quality.png")
    plot_frontier(results, IMAGES / "benchmark-frontier.png")
    if options.data is not None:
        strip(results, options.data, options.reference, IMAGES / "benchmark-strip.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
