"""`gosvae demo`: play a drive through the whole pipeline, judge the masks, and report."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .judge import judge
from .play import Interrupted, play
from .prepare import Options, Run, prepare
from .report import figures, show


def demo(options: Options) -> int:
    """Play, judge and report.

    Returns:
        The exit status: 0 when every frame's mask came, 1 when masks are missing, 130 after a
        signal. Over a link that loses packets, some masks are enough for 0.

    Raises:
        UsageError, LinkError, SourceError, BundleError: an argument is wrong.
        DemoError: a node failed, the nodes did not find each other, or no mask came.
        ReportError: frames share a stamp.
        OSError: something cannot be written.
    """
    try:
        return _demo(prepare(options))
    except Interrupted:
        print("gosvae demo: stopped", file=sys.stderr)
        return 130


def _demo(run: Run) -> int:
    for warning in run.pipeline.warnings:
        print(f"gosvae demo: {warning}", file=sys.stderr)
    print(run.source.description)
    console = Console()
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn())
    with (
        stop_signals() as stop,
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        delivery, usage = play(run, progress, stop)
        quality, outputs = judge(run, delivery, progress, stop)
    report = figures(delivery, quality, outputs, usage)
    show(console, report, quality)
    if run.json_file:
        run.json_file.write_text(json.dumps(report, indent=2) + "\n")
    missing = delivery.frames_sent - delivery.masks_received
    if missing and (run.link is None or not delivery.masks_received):
        print(
            f"gosvae demo: {missing} of {delivery.frames_sent} masks are missing; "
            f"the nodes' output is in {run.folder / 'logs'}",
            file=sys.stderr,
        )
        return 1
    return 0
