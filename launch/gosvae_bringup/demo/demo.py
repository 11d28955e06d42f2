"""`gosvae demo`: play a drive through the whole pipeline, judge the masks, and report."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gosvae_common.signals import stop_signals
from gosvae_tools.outcome import damage_problem

from .judge import judge
from .play import Interrupted, play
from .prepare import Options, Run, prepare
from .report import figures, problems, show


def demo(options: Options) -> int:
    """Play, judge and report.

    Returns:
        The exit status: 0 when every frame was sent, got its mask and was scored; 1 when some are
        missing, or too many are damaged; 130 after a signal. Over a lossy link some masks are
        enough for 0.

    Raises:
        UsageError, LinkError, SourceError, BundleError: an argument is wrong.
        DemoError: a node failed, the nodes did not find each other, or no mask came.
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
    for note in run.source.notes:
        print(f"gosvae demo: {note}", file=sys.stderr)
    console = Console()
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn())
    with (
        stop_signals() as stop,
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        delivery, usage = play(run, progress, stop)
        quality, counts, outputs = judge(run, delivery, progress, stop)
    report = figures(delivery, quality, counts, outputs, usage)
    show(console, report, quality)
    if run.json_file:
        run.json_file.write_text(json.dumps(report, indent=2) + "\n")
    for loss in run.source.losses:
        print(f"gosvae demo: left out: {loss.reason}", file=sys.stderr)
    logs = f"the nodes' output is in {run.folder / 'logs'}"
    found = [
        f"{each}; {logs}" for each in problems(delivery, quality, counts, run.link is not None)
    ]
    total = counts.read + counts.damaged
    if too_many := damage_problem("frames", counts.damaged, total, run.max_damaged):
        found.append(too_many)
    for problem in found:
        print(f"gosvae demo: {problem}", file=sys.stderr)
    return 1 if found else 0
