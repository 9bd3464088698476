"""The differences between SQLite and PostgreSQL that queries and transactions need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    case,
    delete,
    func,
    insert,
    select,
    text,
)
from sqlalchemy import cast as cast_to

from eatnas_db.urls import sqlite_url

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection
    from sqlalchemy.dialects.postgresql import Insert

_SQLITE_SEQUENCE: Final = sqlalchemy.table("sqlite_sequence", sqlalchemy.column("name"), sqlalchemy.column("seq"))
"""SQLite's own table, which holds the highest id that SQLite has assigned in each table with AUTOINCREMENT."""


def is_postgresql(bind: Engine | Connection) -> bool:
    """Return whether the database is PostgreSQL, which several hosts can use together. Otherwise it is SQLite."""
    return bind.dialect.name != "sqlite"


def describe_location(engine: Engine) -> str:
    """Return the path of the file, or the server and the name of its database, without a password."""
    return _describe_url(engine.url)


def url_of(engine: Engine) -> str:
    """Return the URL from which another process can create the same engine; it may hold a password."""
    if is_postgresql(engine):
        return engine.url.render_as_string(hide_password=False)
    return sqlite_url(Path(str(engine.url.database)))


def insert_or_ignore(table: Table) -> Insert:
    """Return an INSERT that ignores conflicting rows, so that the first of several concurrent writers wins."""
    # SQLite and PostgreSQL share this syntax. The import is here because it loads every PostgreSQL driver, and readers
    # need none of them.
    from sqlalchemy.dialects.postgresql import insert

    return insert(table).on_conflict_do_nothing()


def select_ids(connection: Connection, ids: Iterable[int]) -> Select[tuple[int]]:
    """Return a SELECT of these ids. One parameter holds all ids, because databases limit the number of parameters."""
    listed = ",".join(map(str, ids))
    if is_postgresql(connection):
        return select(cast_to(func.unnest(func.string_to_array(listed, ",")), BigInteger))
    return select(func.json_each(f"[{listed}]").table_valued(sqlalchemy.column("value", BigInteger)).c.value)


def null_unless_json(connection: Connection, document: Column[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a value inside a JSON column, or NULL if the stored string is not JSON, for which SQLite raises an error.

    PostgreSQL stores no such string.
    """
    return value if is_postgresql(connection) else case((func.json_valid(document) == 1, value))


def get_last_id(connection: Connection, table: Table) -> int | None:
    """Return the highest id that the database has assigned in a table, even if its row is deleted.

    Return None if the database has assigned no id, or does not remember the ids of deleted rows in this table.
    """
    column = table.autoincrement_column
    if column is None:
        return None
    if is_postgresql(connection):
        sequence = text("SELECT pg_sequence_last_value(pg_get_serial_sequence(:table, :column)::regclass)")
        parameters = {"table": table.name, "column": column.name}
        return cast("int | None", connection.execute(sequence, parameters).scalar_one())
    if not table.dialect_options["sqlite"]["autoincrement"]:
        return None
    last = select(_SQLITE_SEQUENCE.c.seq).where(_SQLITE_SEQUENCE.c.name == table.name)
    return cast("int | None", connection.execute(last).scalar_one_or_none())


def reset_id_sequence(connection: Connection, table: Table, last_id: int | None = None) -> None:
    """Make the database assign ids above `last_id` and above all ids in the table."""
    column = table.autoincrement_column
    if column is None:
        return
    if is_postgresql(connection):
        largest = func.greatest(select(func.max(column)).scalar_subquery(), last_id)
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(select(func.setval(sequence, func.coalesce(largest, 1), largest.is_not(None))))
    elif last_id is not None and table.dialect_options["sqlite"]["autoincrement"]:
        last_id = max(last_id, get_last_id(connection, table) or 0)
        connection.execute(delete(_SQLITE_SEQUENCE).where(_SQLITE_SEQUENCE.c.name == table.name))
        connection.execute(insert(_SQLITE_SEQUENCE).values(name=table.name, seq=last_id))


def detached_connection(engine: Engine) -> PsycopgConnection[Any]:
    """Return a psycopg connection in autocommit mode that no pool manages. The caller closes it."""
    pooled = engine.raw_connection()
    connection = cast("PsycopgConnection[Any]", pooled.driver_connection)
    pooled.detach()
    connection.autocommit = True
    return connection


def _describe_url(url: URL) -> str:
    # Leave out the query of the URL, because it may hold a password too.
    if url.drivername.startswith("sqlite"):
        return str(url.database)
    host = url.host or url.query.get("host") or "localhost"
    return f"database {url.database or url.username} on {host}{f':{url.port}' if url.port else ''}"
