"""Write the benchmark's results into docs/benchmark.md: ``python -m gosvae_bench.report``.

Reads docs/benchmark.json and docs/studies/*.json, draws the plots in docs/images, and replaces
the text between ``<!-- benchmark: NAME -->`` and ``<!-- end -->`` in docs/benchmark.md. With
``--data`` it also draws the picture and mask that the receiver of each codec has.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gosvae_codec.draft import write_text

from .curves import (
    ANCHOR,
    IMAGES,
    ROOT,
    Row,
    by_codec,
    bytes_for,
    dominated,
    front,
    load_results,
    name_of,
    nearest,
    rate_difference,
    tokens_of,
    tuned_experts,
)
from .files import BUNDLE
from .pictures import plot_frontier, plot_quality, strip
from .tables import markdown_table, number

PAGE = ROOT / "docs" / "benchmark.md"


def setup(results: Row) -> str:
    """Return the data, machine and versions of the measurement."""
    data, machine, versions = results["data"], results["machine"], results["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{data['frames']} frames of {data['size']}, SHA-256 `{data['sha256'][:16]}`, expert "
        f"`{results['expert']}`; {machine['cores']} cores of {machine['cpu']}, no GPU, "
        f"{results['date']}; {named}."
    )


def coverage(results: Row) -> str:
    """Return the number of settings of each picture codec, for each expert."""
    lines = []
    for expert in (results["expert"], *tuned_experts(results)):
        codecs = by_codec([row for row in results["rows"] if row["sends"] == "pixels"], expert)
        seen = ", ".join(f"{name} {len(rows)}" for name, rows in codecs.items())
        lines.append(f"- `{expert}`: {seen}.")
    return "\n".join(lines)


def summary(results: Row) -> str:
    """Return the bytes of each codec for the mIoU of our tokens, as a table.

    Values after a slash are with tuned experts, "?" if too few settings were measured with them.
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
        row = nearest(rows, reached[-1] if reached else 1e9)
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
    """Return codec, setting and, if it is not the bundle's, the receiver's expert."""
    by = f", seen by {row['expert']}" if row["expert"] not in (None, results["expert"]) else ""
    return f"{row['codec']}, {row['setting']}{by}"


def losses(results: Row) -> str:
    """Return the contenders that are better than the default bundle."""
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
            f"{results['reference']} ({best:.3f}), without a network in the vehicle: "
            f"{', '.join(ceilings)}."
        )
    return "\n".join(lines) or "- Nothing measured is cheaper and better."


def others(results: Row) -> str:
    """Return the same as :func:`losses` for each other bundle that sends tokens."""
    tokens = [row for row in results["rows"] if row["sends"] == "tokens"]
    names = list(dict.fromkeys(row["codec"] for row in tokens))
    names.remove(results["reference"])
    lines = [line for name in names for line in _defeats(results, tokens_of(results, name))]
    return "\n".join(lines) or "- Nothing measured is cheaper and better."


def _defeats(results: Row, ours: Sequence[Row]) -> list[str]:
    rivals: dict[str, list[Row]] = {}
    for row in results["rows"]:
        if row["sends"] != "tokens" and any(dominated(each, [row]) for each in ours):
            rivals.setdefault(row["codec"], []).append(row)
    lines = []
    for some in rivals.values():
        # Of each codec, one setting for each number of levels: that with the best masks.
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
    """Return the rows by the names of their curves, of all experts."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(name_of(row), []).append(row)
    return found


def everything(results: Row) -> str:
    """Return all rows as a table."""
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
    """Return the rate differences of all codecs against ANCHOR with the bundle's expert.

    ANCHOR at the frame sizes that the codec was measured at.
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
    """Return the results of the studies, the methods of the paper among them."""
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
                row.get("training", ""),
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
    """Return a page with the text between each ``<!-- MARK: NAME -->`` and its end replaced.

    Raises:
        KeyError: a mark names none of the blocks.
    """
    return re.sub(
        rf"<!-- {mark}: (\w+) -->\n.*?<!-- end -->",
        lambda match: f"<!-- {mark}: {match[1]} -->\n{blocks[match[1]](results)}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def render(text: str, results: Row) -> str:
    """Return the page with its blocks made from results; see :func:`fill_in`."""
    return fill_in(text, "benchmark", BLOCKS, results)


def main(arguments: list[str] | None = None) -> int:
    """Draw the plots and fill in the page."""
    parser = argparse.ArgumentParser(
        prog="gosvae_bench.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, help="frames, for the strip of pictures")
    parser.add_argument("--reference", type=Path, default=ROOT / BUNDLE)
    options = parser.parse_args(arguments)
    results = load_results()
    write_text(PAGE, render(PAGE.read_text(), results))
    plot_quality(results, IMAGES / "benchmark-quality.png")
    plot_frontier(results, IMAGES / "benchmark-frontier.png")
    if options.data is not None:
        strip(results, options.data, options.reference, IMAGES / "benchmark-strip.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
