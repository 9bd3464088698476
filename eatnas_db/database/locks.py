"""Locks that programs take on a record: searches, the schema, named tasks and hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, select, text

from eatnas_db.database.dialects import detached_connection, is_postgresql
from eatnas_db.database.errors import translated_errors
from eatnas_db.file_lock import exclusive_lock
from eatnas_db.schema.searches import search


def lock_searches(connection: Connection, which: Select[Any]) -> None:
    """Make other hosts wait to settle and breed the searches selected by id, until this transaction ends.

    Everybody takes them in the same order, so that no two wait for each other. On SQLite a write transaction
    has the whole record anyway.
    """
    if is_postgresql(connection):
        rows = select(search.c.id).where(search.c.id.in_(which)).order_by(search.c.id)
        connection.execute(rows.with_for_update(key_share=True)).all()


def lock_schema(connection: Connection) -> None:
    """Make other programs wait to change the tables, until this transaction ends."""
    if is_postgresql(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:a, 0)"), {"a": SCHEMA_LOCK})


@contextmanager
def task_lock(engine: Engine, what: str) -> Iterator[None]:
    """Of all programs on this record, one at a time does `what`."""
    if not is_postgresql(engine):
        with exclusive_lock(Path(f"{engine.url.database}.{what}.lock")):
            yield
        return
    with translated_errors(engine), closing(detached_connection(engine)) as connection:
        connection.execute("SET lock_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (TASK_LOCK, what))
        yield


def list_connected_hosts(connection: Connection) -> frozenset[int]:
    """The ids of the hosts whose supervisor is connected to the server now; on SQLite nobody can tell."""
    if not is_postgresql(connection):
        return frozenset()
    return frozenset(connection.execute(_LIVING_HOSTS, {"a": HOST_LOCK}).scalars())


HOST_LOCK, SCHEMA_LOCK, TASK_LOCK = 0x6EA7_0001, 0x6EA7_0002, 0x6EA7_0003
"""The first halves of our advisory locks: numbers that nobody else is likely to use in a shared database."""


_LIVING_HOSTS: Final = text(
    "SELECT CAST(objid AS bigint) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'advisory' AND CAST(classid AS bigint) = :a AND granted AND datname = current_database()"
)
