"""What the commands of studies have in common: arguments, and where rows are kept."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from ..train import add_machine_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add data, places, rows and what says where a run takes place."""
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go")
    parser.add_argument("--output", type=Path, default=Path("docs/studies"), help="for the figures")
    parser.add_argument("--row", action="append", help="only this row; again for more")
    add_machine_options(parser)


def run_folder(runs: Path, text: str) -> Path:
    """Return where what `text` describes is kept; what says the same is the same run."""
    return runs / "studies" / hashlib.sha256(text.encode()).hexdigest()[:12]
