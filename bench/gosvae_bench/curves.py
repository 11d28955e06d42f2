"""Rate-quality curves of the benchmark's results, and the figures derived from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bjontegaard
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmark.json"
STUDIES = ROOT / "docs" / "studies"
IMAGES = ROOT / "docs" / "images"
ANCHOR = "JPEG"
"""The codec that rate differences refer to."""
Row = Mapping[str, Any]


def load_results(path: Path = RESULTS, studies: Path = STUDIES) -> dict[str, Any]:
    """Return the benchmark's results, with those of the studies by name under ``studies``.

    Studies that are not judged by mIoU have no place beside them.
    """
    found = {each.stem: json.loads(each.read_text()) for each in sorted(studies.glob("*.json"))}
    judged = {
        name: study
        for name, study in found.items()
        if all("miou" in row for row in study["rows"].values())
    }
    return {**json.loads(path.read_text()), "studies": judged}


def tuned_experts(results: Row) -> list[str]:
    """Return the names of the receiver's experts other than the bundle's."""
    experts = (row["expert"] for row in results["rows"])
    return [each for each in dict.fromkeys(experts) if each not in (None, results["expert"])]


def by_codec(rows: Sequence[Row], expert: str) -> dict[str, list[Row]]:
    """Return the rows by codec, in order, without rows of an expert other than `expert`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["expert"] in (None, expert):
            found.setdefault(name_of(row), []).append(row)
    return found


def name_of(row: Row) -> str:
    """Return the name of a row's curve; predicted and intra tokens have one each."""
    if row["sends"] != "tokens":
        return str(row["codec"])
    return f"tokens of {row['codec']}, {row['setting'].rpartition(', ')[2]}"


def front(rows: Sequence[Row], figure: str = "miou") -> list[Row]:
    """Return the rows, by bytes, for which no cheaper row is at least as good in `figure`."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda each: (each["bytes_per_frame"], -each[figure])):
        if not best or row[figure] > best[-1][figure]:
            best.append(row)
    return best


def bytes_for(rows: Sequence[Row], miou: float) -> float | None:
    """Return the bytes per frame at which a codec reaches an mIoU, interpolated.

    The logarithm of the bytes is interpolated linearly over mIoU between neighbours on the front.
    None if no setting is as good; the bytes of the cheapest setting if that is better already.
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

    Piecewise cubic (PCHIP) over the fronts, from bjontegaard (Herglotz et al. 2022). None if the
    ranges do not overlap.
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
    """Return those of `others` with at most the bytes and at least the mIoU of `row`."""
    return [
        each
        for each in others
        if each["bytes_per_frame"] <= row["bytes_per_frame"] and each["miou"] >= row["miou"]
    ]


def nearest(rows: Sequence[Row], size: float) -> Row:
    """Return the row whose bytes a frame are nearest to `size`, by their ratio."""
    return min(rows, key=lambda row: abs(np.log(row["bytes_per_frame"] / size)))


def tokens_of(results: Row, bundle: str = "") -> list[Row]:
    """Return the row of each number of levels of a bundle; without one, of the reference.

    The cheaper one of intra and predicted: prediction pays only where frames follow closely.
    """
    by_levels: dict[str, list[Row]] = {}
    for row in results["rows"]:
        if row["codec"] == (bundle or results["reference"]):
            by_levels.setdefault(row["setting"].partition(",")[0], []).append(row)
    return [min(rows, key=lambda row: row["bytes_per_frame"]) for rows in by_levels.values()]
