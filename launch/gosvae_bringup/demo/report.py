"""The figures of a demo run, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .delivery import Delivery, Usage
from .judge import Counts, Quality


def figures(
    delivery: Delivery,
    quality: Quality,
    counts: Counts,
    outputs: dict[str, str],
    usage: Mapping[str, Usage] | None = None,
) -> dict[str, object]:
    """Return what `gosvae demo --json` writes; `usage` is that of a link, by the sending side."""
    ages = list(delivery.mask_ages_ms.values())

    def percentile(share: float) -> float | None:
        return round(float(np.percentile(ages, share)), 2) if ages else None

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        "frames_read": counts.read,
        "damaged": counts.damaged,
        "frames_sent": delivery.frames_sent,
        "packets": delivery.packets,
        "masks_received": delivery.masks_received,
        "frames_scored": quality.frames,
        "bytes_per_frame": round(delivery.bytes_per_frame, 1),
        "kbit_per_s": round(delivery.kbit_per_s, 2),
        "mask_age_ms": {"p50": percentile(50), "p95": percentile(95)},
        "longest_gap_ms": round(delivery.longest_gap_ms, 2),
        "coverage": rounded(delivery.coverage),
        "loss": rounded(delivery.loss),
        "link_kbit_per_s": usage and {k: round(each.kbit_per_s, 2) for k, each in usage.items()},
        "link_loss": usage and {k: rounded(each.loss) for k, each in usage.items()},
        "miou": rounded(quality.miou),
        "expert_miou": rounded(quality.expert_miou),
        "classes_compared": quality.compared,
        "agreement": rounded(quality.agreement),
        "outputs": outputs,
    }


def show(console: Console, report: Mapping[str, Any], quality: Quality) -> None:
    """Print the figures as a table, and the paths of the files written."""

    def number(value: float | None, form: str, unit: str = "") -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    age = report["mask_age_ms"]
    rows = {
        "frames read": number(report["frames_read"], ",d"),
        "damaged frames": number(report["damaged"], ",d"),
        "frames sent": number(report["frames_sent"], ",d"),
        "packets": number(report["packets"], ",d"),
        "masks received": number(report["masks_received"], ",d"),
        "bytes per frame": number(report["bytes_per_frame"], ",.0f"),
        "at the played rate": number(report["kbit_per_s"], ",.1f", " kbit/s"),
        "mask age p50, p95": f"{number(age['p50'], '.0f')}, {number(age['p95'], '.0f', ' ms')}",
        "longest time without a mask": number(report["longest_gap_ms"], ".0f", " ms"),
        "packets lost": number(report["loss"], ".1%"),
        "share of a mask from what arrived": number(report["coverage"], ".3f"),
        "frames scored": f"{quality.frames:,d}, {quality.labelled:,d} with labels",
        "mIoU against labels, bundle's classes": number(report["miou"], ".3f"),
        "the expert's mIoU, bundle's classes": number(report["expert_miou"], ".3f"),
        "mIoU against the expert, bundle's classes": number(report["agreement"], ".3f"),
    }
    for side, rate in (report["link_kbit_per_s"] or {}).items():
        loss = report["link_loss"][side]
        name = f"link {side.replace('_', ' the ')}"
        rows[name] = f"{rate:,.1f} kbit/s, {loss:.1%} lost"
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    if report["classes_compared"]:
        print(f"mIoU against labels is over: {', '.join(report['classes_compared'])}")
    # Not in the table, which would break long paths.
    for name, path in report["outputs"].items():
        print(f"{name.replace('_', ' '):<14} {path}")


def problems(delivery: Delivery, quality: Quality, counts: Counts, lossy: bool) -> Iterator[str]:
    """Yield in one line each where counts of frames differ that should be equal.

    Each frame that decodes is sent, each one that was sent gets a mask, each mask is scored. Over a
    lossy link some masks are enough.
    """
    if counts.unsent:
        yield f"{counts.unsent} of {counts.read} frames were read but not sent"
    if counts.undecodable > counts.damaged:
        yield (
            f"{counts.undecodable} of {delivery.frames_sent} frames that were sent do not decode, "
            f"but {counts.damaged} when the drive was read again"
        )
    expected = delivery.frames_sent - counts.undecodable
    if quality.frames < expected and not (lossy and quality.frames):
        yield (
            f"{expected - quality.frames} of {expected} masks are missing: if the machine is too "
            "busy for the networks, give a lower --rate"
        )
