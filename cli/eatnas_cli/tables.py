"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, Literal
from unicodedata import combining, east_asian_width

from eatnas_cli.values import as_text, is_number
from eatnas_report.formats import format_time

if TYPE_CHECKING:
    from rich.table import Table

AS_GIVEN: Final = ("width", "multiplier", "learning_rate")
"""Columns whose figures are printed as they were given; so are those of a spec, whose names have dots."""
LONG: Final = 500
"""The number of rows from which on rich takes seconds."""


def print_table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print records as a table of `columns`; on a terminal one that folds its cells to fit."""
    if sys.stdout.isatty() and len(records) < LONG:
        from rich.console import Console

        Console(highlight=False).print(rich_table(records, columns))
    else:
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in _plain_lines(records, columns))


def rich_table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> Table:
    """Return records as a table that rich can draw."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        align: Literal["right", "left"] = "right" if _is_numeric(records, column) else "left"
        table.add_column(_head(column), justify=align, overflow="fold")
    for record in records:
        table.add_row(*(Text(cell_text(column, record[column])) for column in columns))
    return table


def _plain_lines(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the same table, as wide as it has to be: what reads a pipe wants a row on one line."""
    rows = [[cell_text(column, record[column]).split("\n") for column in columns] for record in records]
    rows.insert(0, [[_head(column)] for column in columns])
    widths = [max(_width(line) for row in rows for line in row[at]) for at in range(len(columns))]
    numeric = [_is_numeric(records, column) for column in columns]
    yield ""
    for number, row in enumerate(rows):
        for line in zip_longest(*row, fillvalue=""):
            cells = zip(line, widths, numeric, strict=True)
            yield "  " + "   ".join(_padded(text, width, align_right=right) for text, width, right in cells)
        if number == 0:
            yield " " + "─" * (sum(widths) + 3 * len(widths) - 1)
    yield ""


def _padded(text: str, width: int, *, align_right: bool) -> str:
    padding = " " * (width - _width(text))
    return padding + text if align_right else text + padding


def _width(text: str) -> int:
    """Return the number of terminal columns that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(combining(sign) != 0 for sign in text)


def _head(column: str) -> str:
    return column.replace("_", " ")


def _is_numeric(records: Sequence[dict[str, Any]], column: str) -> bool:
    return any(is_number(record[column]) for record in records)


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
