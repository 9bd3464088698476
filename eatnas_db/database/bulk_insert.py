"""Insert many rows with one statement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import JSON, Column, Connection, Dialect, Row, Table, bindparam, column, func, insert, select
from sqlalchemy.sql.dml import Insert

from eatnas_db.database.dialects import insert_or_ignore, is_postgresql


def insert_rows(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that have the same columns."""
    if len(rows) > 1 and not is_postgresql(connection):
        statement, columns = _driver_insert(table, frozenset(rows[0]), connection.dialect)
        values = [_encode(column, [row[column.name] for row in rows], connection.dialect) for column in columns]
        connection.exec_driver_sql(statement, list(zip(*values, strict=True)))
    elif rows:
        connection.execute(*_statement(connection, table, (), rows))


def insert_or_ignore_rows(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], returning: tuple[Column[Any], ...]
) -> Sequence[Row[Any]]:
    """Insert the rows that do not conflict with a stored row.

    Return the columns `returning` of the inserted rows in any order.
    """
    return connection.execute(*_statement(connection, table, returning, rows)).all() if rows else ()


def _statement(
    connection: Connection, table: Table, returning: tuple[Column[Any], ...], rows: Sequence[dict[str, Any]]
) -> tuple[Insert, Any]:
    """Return the statement and its parameters. On a server, one JSON parameter holds all rows.

    With a parameter for each value, the driver would take most of the time of an insert.
    """
    if len(rows) == 1:
        return _insert(table, returning), rows[0]
    if is_postgresql(connection):
        return _insert_from_json(table, tuple(rows[0]), returning), {"rows": list(rows)}
    return _insert(table, returning), rows


@cache
def _driver_insert(table: Table, names: frozenset[str], dialect: Dialect) -> tuple[str, list[Column[Any]]]:
    """Return the text of an INSERT for the driver, and its columns. SQLAlchemy would take twice as long to execute the
    INSERT.
    """
    columns = [column for column in table.columns if column.name in names]
    return str(insert(table).compile(dialect=dialect, column_keys=[column.name for column in columns])), columns


def _encode(column: Column[Any], values: list[Any], dialect: Dialect) -> list[Any]:
    """Return the values of a column in the types that the driver expects."""
    encode = column.type.dialect_impl(dialect).bind_processor(dialect)
    return values if encode is None else list(map(encode, values))


@cache
def _insert(table: Table, returning: tuple[Column[Any], ...]) -> Insert:
    return insert_or_ignore(table).returning(*returning) if returning else insert(table)


@cache
def _insert_from_json(table: Table, names: tuple[str, ...], returning: tuple[Column[Any], ...]) -> Insert:
    typed = [column(name, table.c[name].type) for name in names]
    values = func.json_to_recordset(bindparam("rows", type_=JSON)).table_valued(*typed, name="given")
    given = values.render_derived(with_types=True)
    return _insert(table, returning).from_select(names, select(*(given.c[name] for name in names)))
