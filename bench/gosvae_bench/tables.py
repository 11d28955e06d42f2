"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def number(value: float | None, form: str = ".0f", scale: float = 1) -> str:
    """Return a number for a table, "-" if there is none."""
    return "-" if value is None else f"{value / scale:{form}}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table without a newline at its end.

    Args:
        header: title of each column.
        rows: cells of each row, as many as titles.

    Raises:
        ValueError: a row has more or fewer cells than `header`.
    """

    def line(cells: Sequence[object]) -> str:
        if len(cells) != len(header):
            raise ValueError(f"a row of {len(cells)} cells in a table of {len(header)}: {cells}")
        return f"| {' | '.join(map(str, cells))} |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])
