"""Create engines, and open an existing record."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError

from eatnas_db.database.dialects import describe_location, is_postgresql
from eatnas_db.database.filesystem import refuse_network_file_system
from eatnas_db.database.transactions import mark_write, read_transaction, transaction
from eatnas_db.errors import RecordError
from eatnas_db.schema.record import REVISION, VERSION_TABLE

BUSY_SECONDS: Final = 30


IDLE_SECONDS: Final = 10
"""A program that is frozen inside a transaction holds up all others on a server for so long at most."""


CONNECT_SECONDS: Final = 5


def create_engine_for(url: str, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine whose transactions begin when they say so; the database need not hold a record.

    On SQLite the driver's own transactions are switched off: they would leave a migration that is killed
    halfway torn, and take a write lock too late. Raises `RecordError` for databases that are not supported.
    """
    if not url.startswith("sqlite:"):
        return _create_server_engine(url, busy_seconds)
    engine = create_engine(url, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def open_record(url: str, mounts: Path = Path("/proc/mounts"), busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine on an existing record of this code's version. Raises `RecordError` with the way out.

    `busy_seconds`: how long to wait for another program's transaction before giving up.
    """
    if url.startswith("sqlite:"):
        file = Path(url.removeprefix("sqlite:///"))
        refuse_network_file_system(file, mounts)
        if not file.exists():
            raise RecordError(f"no record at {file}; `eatnas-db init` makes one")
    engine = create_engine_for(url, busy_seconds)
    found, place = current_revision(engine), describe_location(engine)
    if found is None:
        raise RecordError(f"{place} holds no eatnas-db record; `eatnas-db init` adds one")
    if found != REVISION:
        older = found < REVISION
        raise RecordError(
            f"the record in {place} is of {'an older' if older else 'a newer'} version ({found}; this program: "
            f"{REVISION}); {'run `eatnas-db db upgrade`' if older else 'update eatnas-db to open it'}"
        )
    return engine


def current_revision(engine: Engine) -> str | None:
    """The Alembic revision of the record behind an engine; None where there is none."""
    there = "SELECT to_regclass(:name)"
    if not is_postgresql(engine):
        there = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = :name"
    with read_transaction(engine) as connection:
        if connection.execute(text(there), {"name": VERSION_TABLE}).scalar() is None:
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
        return None if found is None else str(found)


@contextmanager
def read_connection(url: str) -> Iterator[Connection]:
    """One look at a record, which is opened for it. Raises `RecordError`."""
    with _opened(url) as engine, read_transaction(engine) as connection:
        yield connection


@contextmanager
def write_connection(url: str) -> Iterator[Connection]:
    """One change of a record, which is opened for it. Raises `RecordError`."""
    with _opened(url) as engine, transaction(engine) as connection:
        yield connection


@contextmanager
def _opened(url: str) -> Iterator[Engine]:
    engine = open_record(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("eatnas_reading", False)
    # IMMEDIATE: a writer takes its place in the queue at once, instead of failing at its first write.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


_SETTINGS: Final = {
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    # So that the server notices within half a minute when a host is gone with its power or its network.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def _create_server_engine(url: str, busy_seconds: float) -> Engine:
    try:
        address = make_url(url)
    except ArgumentError:
        raise RecordError("the database URL cannot be understood; write postgresql://USER@HOST/DATABASE") from None
    if address.drivername not in ("postgresql", "postgresql+psycopg"):
        raise RecordError(
            f"databases of kind {address.drivername!r} are not supported: use PostgreSQL "
            "(postgresql+psycopg://USER@HOST/DATABASE) or SQLite (sqlite:///FILE)"
        )
    try:
        engine = create_engine(
            address.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            execution_options={"eatnas_sender": uuid.uuid4().hex},
            connect_args={
                "application_name": "eatnas-db",
                "connect_timeout": CONNECT_SECONDS,
                "tcp_user_timeout": 20_000,
                "keepalives_idle": 10,
                **address.query,
            },
        )
    except ModuleNotFoundError:
        raise RecordError("PostgreSQL needs its driver: pip install 'eatnas-db[postgres]'") from None
    limits = {**_SETTINGS, "lock_timeout": f"{round(1000 * busy_seconds)}ms"}
    asked = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in limits.items())

    def prepare(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(asked)
        connection.autocommit = False

    event.listen(engine, "connect", prepare)
    event.listen(engine, "after_cursor_execute", mark_write)
    return engine
