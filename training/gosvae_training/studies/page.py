"""A study's files: figures as JSON, a section of the page, and a picture of all rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gosvae_codec.draft import whole_file

from ..evaluate import gigamacs
from ..tables import markdown_table

ACROSS = 8
"""Panels that stand side by side; more are put in three lines."""


def table(result: dict[str, Any]) -> str:
    """Return a study's figures as a Markdown section."""
    experts, rows = result["experts"], result["rows"]
    # What the only expert sees is the row's mIoU.
    judges = list(experts) if len(experts) > 1 else []
    alone = "" if judges else f"{next(iter(experts.values())):.3f}"
    ceilings = [f"{experts[judge]:.3f}" for judge in judges]
    coded = any("coded_bytes" in row for row in rows.values())
    lines: list[list[object]] = [
        ["frames, no codec", "", *[""] * coded, 1, "", alone, "", *ceilings, "", ""]
    ]
    for name, row in rows.items():
        seen = [f"{row['judges'][each]:.3f}" if each in row["judges"] else "" for each in judges]
        lines.append(
            [
                name,
                f"{row['payload_bytes']:.0f}",
                *([f"{row['coded_bytes']:.0f}" if "coded_bytes" in row else ""] * coded),
                f"{row['compression_ratio']:.0f}",
                row["codes_used"] or "",
                f"{row['miou']:.3f}",
                f"{row['agreement']:.3f}",
                *seen,
                gigamacs(row["vehicle_macs"]),
                gigamacs(row["receiver_macs"]),
            ]
        )
    header = ["row", "payload bytes", *["coded"] * coded, "ratio", "codes used"]
    header += ["mIoU", "agreement"]
    header += [f"seen by {name}" for name in judges]
    header += ["vehicle GMACs", "receiver GMACs"]
    section = f"""## {result["title"]}

{result["data"]}; a row is {_training(rows)}; {result["date"]};
`{result["command"]}`

{markdown_table(header, lines)}
"""
    return f"{section}\n{_depth_table(rows)}\n" if _has_depth(rows) else section


def _training(rows: Mapping[str, Any]) -> str:
    """Return how rows were trained: steps, crops, seeds and, as far as known, minutes."""
    trained = [row for row in rows.values() if "training" in row]
    crops: dict[str, list[int]] = {}
    for row in trained:
        steps, each = row["training"].split(" steps of ")
        crops.setdefault(each, []).append(int(steps))
    runs = [f"{_span(steps, '.0f')} steps of {each}" for each, steps in sorted(crops.items())]
    seeds = sorted({row["seed"] for row in trained})
    numbered = f"seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, seeds))}"
    minutes = [row["cpu_minutes"] for row in trained if "cpu_minutes" in row]
    spent = [f"{_span(minutes, '.1f')} minutes of CPU"] if minutes else []
    return ", ".join([" or ".join(runs), numbered, *spent])


def _span(numbers: Sequence[float], form: str) -> str:
    """Return the least and the greatest number, or one if they are written alike."""
    return " to ".join(dict.fromkeys(f"{each(numbers):{form}}" for each in (min, max)))


def _has_depth(rows: dict[str, Any]) -> bool:
    return any("depth" in row for row in rows.values())


def _depth_table(rows: dict[str, Any]) -> str:
    return markdown_table(
        ["depth from", "absolute relative error", "within 1.25"],
        [
            (f"{name}, {source}", f"{errors['abs_rel']:.3f}", f"{errors['delta1']:.3f}")
            for name, row in rows.items()
            for source, errors in row.get("depth", {}).items()
        ],
    )


def tasks_section(result: dict[str, Any]) -> str:
    """Return the figures of a study of tasks as a Markdown section."""
    rows, sets = result["rows"], list(result["data"])

    def figures(row: dict[str, Any]) -> list[str]:
        """Return those of all tasks, datasets beside each other."""
        cells = [
            " / ".join(f"{row['judged'][each].get(task, math.nan):.3f}" for each in sets)
            for task in ("agreement", "ap50")
        ]
        cells = ["" if "nan" in cell else cell for cell in cells]
        return [*cells, f"{row['depth']['abs_rel']:.3f}"]

    lines: list[list[object]] = [["frames, no codec", "", "", *figures(result["frames"]), "", ""]]
    for name, row in rows.items():
        coded = " / ".join(f"{row['coded_bytes'][each]:.0f}" for each in sets)
        macs = [gigamacs(row[key]) for key in ("vehicle_macs", "receiver_macs")]
        lines.append([name, f"{row['payload_bytes']:.0f}", coded, *figures(row), *macs])
    typical = f"{result['typical_depth']['abs_rel']:.3f}"
    lines.append(["nothing: the mean depth of each place", "", "", "", "", typical, "", ""])
    header = ["row", "payload bytes", "coded", "masks: agreement", "boxes: AP50", "depth: error"]
    header += ["vehicle GMACs", "receiver GMACs"]
    data = "; ".join(f"*{name}*: {title}" for name, title in result["data"].items())
    trained = f"a row is {_training(rows)}, depth {result['depth_training']} frames"
    return f"""## {result["title"]}

{data};
seen at {result["seen_at"]}; {trained}; {result["date"]};
`{result["command"]}`

{markdown_table(header, lines)}
"""


def render(page: str, name: str, section: str) -> str:
    """Return a Markdown page with a section between its marks, or at the end if it has none."""
    start, end = f"<!-- study: {name} -->\n", "<!-- end -->"
    before, found, after = page.partition(start)
    if not found:
        return f"{page}\n{start}{section}{end}\n"
    return before + start + section + end + after.partition(end)[2]


def write_study(
    output: Path,
    result: dict[str, Any],
    section: str,
    panels: Mapping[str, npt.NDArray[np.uint8]],
) -> None:
    """Write the figures to `output`, their section into the page and a picture beside it.

    Args:
        output: JSON file; the page is ``README.md`` beside it, the picture ``<stem>.jpg``.
        result: the study's figures.
        section: the same as Markdown.
        panels: name and picture of each row, uint8 (H, W, 3) RGB.
    """
    page = output.with_name("README.md")
    before = page.read_text() if page.exists() else "# Studies\n"
    for path, content in (
        (output, (json.dumps(result, indent=2) + "\n").encode()),
        (page, render(before, output.stem, section).encode()),
        (output.with_suffix(".jpg"), _strip(panels)),
    ):
        with whole_file(path) as draft:
            draft.write_bytes(content)


def _strip(panels: Mapping[str, npt.NDArray[np.uint8]]) -> bytes:
    """Return panels side by side, each under its name, as JPEG; many in several lines."""
    titled = []
    for name, panel in panels.items():
        title = np.full((20, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(title, name, (3, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        titled.append(np.concatenate([title, panel]))
    across = len(titled) if len(titled) <= ACROSS else -(-len(titled) // 3)
    blank = [np.full_like(titled[0], 255)] * (-len(titled) % across)
    tiles = np.stack([*titled, *blank])
    lines = tiles.reshape(-1, across, *tiles.shape[1:])
    picture = lines.swapaxes(1, 2).reshape(len(lines) * tiles.shape[1], -1, 3)
    strip = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
