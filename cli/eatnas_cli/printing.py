"""Answers on the terminal: as a table, as JSON, or as CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from typing import Any

from eatnas_cli.tables import cell_text, print_table
from eatnas_cli.values import as_text, to_json
from eatnas_report.formats import flatten


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
        writer.writerows([as_text(record[column]) for column in columns] for record in records)
    else:
        print_table(records, columns)


def show_one(row: Any, format: Format = Format.TABLE) -> None:  # noqa: A002
    """Print a dataclass or mapping: a name and a value a line, one JSON object, or a CSV of fields.

    On the terminal lists come below, as tables; what is nested has its path as its name.
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
    print_table(fields, ("field", "value"))
    for name, listing in parts.items():
        sys.stdout.write(f"{name}\n")
        print_table(listing, list(listing[0]))


def _record(row: Any) -> dict[str, Any]:
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row)


def print_json(value: Any) -> None:
    """Print JSON that any reader takes: infinities become text."""
    sys.stdout.write(json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n")


def print_json_lines(records: Sequence[dict[str, Any]]) -> None:
    """Print one JSON object a line."""
    sys.stdout.writelines(json.dumps(to_json(record)) + "\n" for record in records)


def _is_listing(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)
