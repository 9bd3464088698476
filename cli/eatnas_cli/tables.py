"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from eatnas_cli.values import as_text, is_number
from eatnas_report.formats import format_time

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE: Final = 100_000
AS_GIVEN: Final = ("width", "multiplier", "learning_rate")
"""Figures shown as they were given, not to four places; so are a spec's, which are nested."""
LONG: Final = 500
"""Rows from which on a table is set plainly: rich takes seconds for thousands."""


def print_table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print records as a table of `columns`."""
    heads = [column.replace("_", " ") for column in columns]
    numeric = [any(is_number(record[column]) for record in records) for column in columns]
    cells = [[cell_text(column, record[column]) for column in columns] for record in records]
    if len(records) >= LONG:
        _print_plainly(heads, numeric, cells)
    else:
        _print_richly(heads, numeric, cells)


def _print_plainly(heads: list[str], numeric: list[bool], cells: list[list[str]]) -> None:
    lines = [heads, *([cell.replace("\n", " ") for cell in row] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        parts = zip(line, widths, numeric, strict=True)
        aligned = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in parts)
        sys.stdout.write("  ".join(aligned).rstrip() + "\n")


def table_of(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> Table:
    """Records as a table that rich can show again and again."""
    heads = [column.replace("_", " ") for column in columns]
    numeric = [any(is_number(record[column]) for record in records) for column in columns]
    return _table(heads, numeric, [[cell_text(column, record[column]) for column in columns] for record in records])


def _print_richly(heads: list[str], numeric: list[bool], cells: list[list[str]]) -> None:
    # A pipe has no width; what reads it wants one row a line.
    console(None if sys.stdout.isatty() else WIDE).print(_table(heads, numeric, cells))


def _table(heads: list[str], numeric: list[bool], cells: list[list[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for head, right in zip(heads, numeric, strict=True):
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def console(width: int | None = None) -> Console:
    """Return a console that prints text as it is; default width: the terminal's."""
    from rich.console import Console

    return Console(width=width, highlight=False, soft_wrap=False)


def cell_text(column: str, value: Any) -> str:
    """Return a value as a cell of this column, with the precision and the units that suit it."""
    if isinstance(value, float) and (column == "at" or column.endswith("_at")):
        return format_time(value)
    if isinstance(value, float):
        return f"{value:g}" if column in AS_GIVEN or "." in column else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool) and column in ("params", "mult_adds"):
        return f"{value:,}"
    text = as_text(value)
    # Messages come from programs that may have written terminal codes.
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in text)
