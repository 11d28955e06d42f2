"""How a command that reads and writes ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_DAMAGED = 0.1
"""Default of the share of damaged input above which a command fails."""


class Outcome(NamedTuple):
    """What a command read and wrote.

    `figures` are for the report. `notes` tell in one line each what was left out. `problems` are
    those that make the command fail, although its output is kept.
    """

    figures: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def damage_problem(what: str, damaged: int, total: int, limit: float) -> str | None:
    """Return the problem that too many of `total` were damaged; None up to the share `limit`."""
    if damaged <= limit * total:
        return None
    return (
        f"{damaged} of {total} {what} are damaged, more than the share {limit:g} that "
        "--max-damaged allows; the rest was written"
    )
