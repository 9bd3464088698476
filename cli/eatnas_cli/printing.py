"""Print answers as a table, as JSON, or as CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from enum import StrEnum
from typing import Any, Final

from eatnas_cli.sentences import print_note, print_sentence
from eatnas_cli.tables import cell_text, print_table, terminal_width
from eatnas_cli.values import as_text, to_json
from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import ConflictError
from eatnas_report.formats import flatten


class Format(StrEnum):
    """The format of an answer."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns to show (empty: the default columns of the command), and whether the table may be wider than the
    terminal.
    """

    columns: tuple[str, ...] = ()
    wide: bool = False

    @property
    def width(self) -> int | None:
        """The maximum width of a table; None without a limit."""
        return None if self.wide else terminal_width()


TRACEBACK: Final = "traceback"
"""The column whose long text is printed below the table."""
FITTING: Final = Layout()
"""The default columns, fitted to the terminal."""


def show(
    rows: Sequence[Any],
    columns: Sequence[str],
    format: Format = Format.TABLE,  # noqa: A002
    *,
    layout: Layout = FITTING,
    default: Sequence[str] = (),
    empty: str = "",
) -> None:
    """Print dataclasses or mappings as a table, as CSV with `columns`, or as a JSON list with all fields.

    A table shows all `columns`. On a terminal, it shows only the columns in `default`, unless `default` is empty.
    `empty` is printed instead of a table without rows. Raises `ConflictError` for a column of the layout that does not
    exist.
    """
    records = [_record(row) for row in rows]
    _require_columns(layout.columns, [*columns, *(records[0] if records else ())])
    if format is Format.JSON:
        names = layout.columns
        print_json([{name: record[name] for name in names} for record in records] if names else records)
    elif format is Format.CSV:
        shown = layout.columns or columns
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(shown)
        writer.writerows([as_text(record[column]) for column in shown] for record in records)
    elif empty and not records:
        print_sentence(empty)
    else:
        width = layout.width
        shown = layout.columns or (() if width is None else default) or columns
        left_out = print_table(records, shown, width, keep_all=bool(layout.columns))
        if left_out:
            sys.stdout.flush()
            print_note(f"the terminal is too narrow for {', '.join(left_out)}; --wide shows all columns")


def _require_columns(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            known = list(dict.fromkeys(known))
            raise ConflictError(f"no column {name!r}{did_you_mean(name, known)}; the columns are: {', '.join(known)}")


def require_table(format: Format, option: str) -> None:  # noqa: A002
    """Raise `ConflictError` if an option that draws is combined with a format for numbers."""
    if format is not Format.TABLE:
        raise ConflictError(
            f"{option} draws a plot, so it cannot be combined with --format {format}; leave out {option} to get the "
            "numbers"
        )


def show_one(row: Any, format: Format = Format.TABLE, *, layout: Layout = FITTING) -> None:  # noqa: A002
    """Print a dataclass or mapping as lines with a name and a value, as one JSON object, or as a CSV of fields.

    In lines and CSV, the name of a nested value is its path. In a table, lists follow as tables of their own.
    """
    record = _record(row)
    if format is Format.JSON:
        print_json(record)
        return
    record = flatten(record)
    parts = {name: value for name, value in record.items() if _is_listing(value)}
    fields = [{"field": name, "value": value} for name, value in record.items() if name not in parts]
    if format is Format.CSV:
        show(fields, ("field", "value"), format)
        return
    for field in fields:
        field["value"] = cell_text(field["field"], field["value"])
    show(fields, ("field", "value"), layout=layout)
    for name, listing in parts.items():
        sys.stdout.write(f"{name}\n")
        show(listing, [column for column in listing[0] if column != TRACEBACK], layout=layout)
        for entry in listing:
            if text := entry.get(TRACEBACK):
                sys.stdout.write(f"{text.rstrip()}\n\n")


def _record(row: Any) -> dict[str, Any]:
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row)


def print_json(value: Any) -> None:
    """Print a value as JSON that every reader accepts: infinities and NaN become strings."""
    sys.stdout.write(json.dumps(to_json(value), indent=2, ensure_ascii=not _is_utf8()) + "\n")


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def print_json_lines(records: Sequence[dict[str, Any]]) -> None:
    """Print one JSON object per line."""
    sys.stdout.writelines(json.dumps(to_json(record)) + "\n" for record in records)


def _is_listing(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)
