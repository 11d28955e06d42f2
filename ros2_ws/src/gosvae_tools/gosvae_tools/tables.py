"""Results as tables: boxes on a terminal, tab-separated lines anywhere else, or JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table as Box
from rich.text import Text


class Table(NamedTuple):
    """A title, what the columns are, and rows of values; without columns, pairs of name and value.

    None and nan are shown as "-".
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, title: str, values: Mapping[str, Any]) -> Table:
        """Return a table of names and values, underscores in names made spaces."""
        return cls(title, (), [(name.replace("_", " "), value) for name, value in values.items()])


def show(tables: Sequence[Table]) -> None:
    """Print tables to stdout."""
    terminal = sys.stdout.isatty()
    console = Console()
    for table in tables:
        rows = [[_text(value) for value in row] for row in table.rows]
        if not terminal:
            print(f"# {table.title}")
            for row in ([table.columns] if table.columns else []) + rows:
                print(*row, sep="\t")
            continue
        box = Box(title=table.title, title_justify="left", show_header=bool(table.columns))
        for index in range(max(map(len, [table.columns, *rows]))):
            name = table.columns[index] if table.columns else ""
            numbers = all(_is_number(row[index]) for row in table.rows)
            box.add_column(name, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            box.add_row(*(Text(value, style=_STYLES.get(value, "")) for value in row))
        console.print(box)


_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def show_json(values: Any) -> None:
    """Print what JSON can hold to stdout; nan becomes null."""
    print(json.dumps(_without_nan(values), indent=2))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or value is None


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("\t", " ").replace("\n", " ")
