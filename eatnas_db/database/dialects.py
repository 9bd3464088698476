"""The differences between SQLite and PostgreSQL that queries and transactions need."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, func, select
from sqlalchemy.dialects.postgresql import Insert, insert


def describe_location(engine: Engine) -> str:
    """The database's place, fit to be printed: the file, or the server and the database there."""
    return _place(engine.url)


def is_postgresql(bind: Engine | Connection) -> bool:
    """Whether several hosts may work on the record: it is no file."""
    return bind.dialect.name != "sqlite"


def insert_or_ignore(table: Table) -> Insert:
    """INSERT … ON CONFLICT DO NOTHING: of writers that race for one row, the first wins."""
    return insert(table).on_conflict_do_nothing()


def reset_id_sequence(connection: Connection, table: Table) -> None:
    """Let the database number further rows after those that were inserted with numbers of their own."""
    if is_postgresql(connection) and table.autoincrement_column is not None:
        column = table.autoincrement_column
        largest = select(func.max(column)).scalar_subquery()
        counter = func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(select(func.setval(counter, func.coalesce(largest, 1), largest.is_not(None))))


def detached_connection(engine: Engine) -> Any:
    """A driver's connection that no pool knows of, each of whose statements is a transaction."""
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    pooled.detach()
    assert connection is not None
    connection.autocommit = True
    return connection


def _place(url: URL) -> str:
    """Never with the password, nor with the query, which may hold one too."""
    if url.drivername.startswith("sqlite"):
        return str(url.database)
    host = url.host or url.query.get("host") or "localhost"
    return f"database {url.database or url.username} on {host}{f':{url.port}' if url.port else ''}"
