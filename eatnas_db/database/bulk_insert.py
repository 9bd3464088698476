"""Insert many rows with one statement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import JSON, Column, Connection, Row, Table, bindparam, column, func, insert, select
from sqlalchemy.sql.dml import Insert

from eatnas_db.database.dialects import insert_or_ignore, is_postgresql


def insert_rows(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that have the same columns."""
    if rows:
        connection.execute(*_statement(connection, table, (), rows))


def insert_or_ignore_rows(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], returning: tuple[Column[Any], ...]
) -> Sequence[Row[Any]]:
    """Insert the rows that conflict with no other; return these columns of them, in any order."""
    return connection.execute(*_statement(connection, table, returning, rows)).all() if rows else ()


def _statement(
    connection: Connection, table: Table, returning: tuple[Column[Any], ...], rows: Sequence[dict[str, Any]]
) -> tuple[Insert, Any]:
    """Return the statement and its parameters: on a server, several rows travel as one JSON parameter.

    Otherwise the driver would spend most of the time on hundreds of thousands of parameters.
    """
    if len(rows) == 1:
        return _insert(table, returning), rows[0]
    if is_postgresql(connection):
        return _insert_from_json(table, tuple(rows[0]), returning), {"rows": list(rows)}
    return _insert(table, returning), rows


@cache
def _insert(table: Table, returning: tuple[Column[Any], ...]) -> Insert:
    return insert_or_ignore(table).returning(*returning) if returning else insert(table)


@cache
def _insert_from_json(table: Table, names: tuple[str, ...], returning: tuple[Column[Any], ...]) -> Insert:
    typed = [column(name, table.c[name].type) for name in names]
    values = func.json_to_recordset(bindparam("rows", type_=JSON)).table_valued(*typed, name="given")
    given = values.render_derived(with_types=True)
    return _insert(table, returning).from_select(names, select(*(given.c[name] for name in names)))
