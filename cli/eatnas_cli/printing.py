"""Answers on the terminal: as a table, as JSON, or as CSV."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from eatnas_report.formats import format_time

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    from eatnas_db.queries.lineage import LineageEntry

WIDE: Final = 100_000
GIVEN: Final = ("width", "multiplier", "learning_rate")
"""Figures shown as they were given, not to four places; so are a spec's, which are nested."""
LONG: Final = 500
"""Rows from which on a table is set plainly: rich takes seconds for thousands."""


class Format(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def show(rows: Sequence[Any], columns: Sequence[str], format: Format = Format.TABLE) -> None:  # noqa: A002
    """Print dataclasses or mappings: a table of `columns`, a CSV of `columns`, or a JSON list of all there is."""
    records = [_record(row) for row in rows]
    if format is Format.JSON:
        print_json(records)
    elif format is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_as_text(record[column]) for column in columns] for record in records)
    else:
        _print_table(records, columns)


def show_one(row: Any, format: Format = Format.TABLE) -> None:  # noqa: A002
    """Print a dataclass or mapping: a name and a value a line, one JSON object, or a CSV of fields.

    On the terminal lists come below, as tables; what is nested has its path as its name.
    """
    record = _record(row)
    if format is Format.JSON:
        print_json(record)
        return
    record = _flat(record)
    parts = {name: value for name, value in record.items() if _is_listing(value)}
    fields = [{"field": name, "value": value} for name, value in record.items() if name not in parts]
    if format is Format.CSV:
        show(fields, ("field", "value"), format)
        return
    for field in fields:
        field["value"] = _shown(field["field"], field["value"])
    _print_table(fields, ("field", "value"))
    for name, listing in parts.items():
        _console().print(name, markup=False)
        _print_table(listing, list(listing[0]))


def _record(row: Any) -> dict[str, Any]:
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row)


def _flat(record: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[path + name] = value
    return flat


def print_json(value: Any) -> None:
    """Print JSON that any reader takes: infinities become text."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def print_json_lines(records: Sequence[dict[str, Any]]) -> None:
    """Print one JSON object a line."""
    sys.stdout.writelines(json.dumps(_plain(record)) + "\n" for record in records)


def lineage_tree(relatives: Sequence[LineageEntry]) -> None:
    """Print a family as a tree from its eldest, each branch with what changed and what that gained."""
    from rich.tree import Tree

    several = len({relative.search for relative in relatives}) > 1
    known = {relative.id: relative for relative in relatives}
    trees: dict[int, Tree] = {}
    root: Tree | None = None
    # A child's id is always higher than its parent's, in whatever search it was born.
    for relative in sorted(relatives, key=lambda one: one.id):
        parent = known.get(relative.parent_id or 0)
        moved = several and (parent is None or parent.search != relative.search)
        label = _label(relative, f"{relative.search}: " if moved else "")
        if parent is not None:
            trees[relative.id] = trees[parent.id].add(label)
        else:
            root = trees[relative.id] = Tree(label)
    if root is not None:
        # Never folded: a long line of descent is wider than any terminal.
        _console(WIDE).print(root)


def _label(relative: LineageEntry, place: str) -> Any:
    from rich.text import Text

    fitness = relative.state if relative.fitness is None else f"{relative.fitness:.4f}"
    gain = "" if relative.gain is None else f" ({relative.gain:+.4f})"
    changes = f": {', '.join(relative.changes)}" if relative.changes else ""
    share = relative.share_inherited
    behind = "" if share is None else f", {share:.0%} inherited, {relative.lineage_epochs} epochs behind it"
    return Text(f"{place}{relative.id}, birth {relative.birth}, {relative.origin}{changes}, {fitness}{gain}{behind}")


def _print_table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    heads = [column.replace("_", " ") for column in columns]
    numeric = [any(_is_number(record[column]) for record in records) for column in columns]
    cells = [[_shown(column, record[column]) for column in columns] for record in records]
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
    numeric = [any(_is_number(record[column]) for record in records) for column in columns]
    return _table(heads, numeric, [[_shown(column, record[column]) for column in columns] for record in records])


def _print_richly(heads: list[str], numeric: list[bool], cells: list[list[str]]) -> None:
    # A pipe has no width; what reads it wants one row a line.
    _console(None if sys.stdout.isatty() else WIDE).print(_table(heads, numeric, cells))


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


def _console(width: int | None = None) -> Console:
    from rich.console import Console

    return Console(width=width, highlight=False, soft_wrap=False)


def _shown(column: str, value: Any) -> str:
    if isinstance(value, float) and (column == "at" or column.endswith("_at")):
        return format_time(value)
    if isinstance(value, float):
        return f"{value:g}" if column in GIVEN or "." in column else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool) and column in ("params", "mult_adds"):
        return f"{value:,}"
    text = _as_text(value)
    # Messages come from programs that may have written terminal codes.
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in text)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return "; ".join(value)
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, dict | list | tuple) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_listing(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)
