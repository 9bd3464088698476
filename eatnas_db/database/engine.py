"""Create engines and open records."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from eatnas_db.database.dialects import describe_location, is_postgresql
from eatnas_db.database.errors import READ_ONLY_FILE
from eatnas_db.database.filesystem import refuse_network_file_system
from eatnas_db.database.limited_connection import limit_answers
from eatnas_db.database.mounts import MOUNTS
from eatnas_db.database.sqlite_access import connect_for_reading, may_write
from eatnas_db.database.stored_json import read_json
from eatnas_db.database.transactions import mark_write, read_transaction, run_transaction
from eatnas_db.errors import RecordError
from eatnas_db.file_identity import require_single_name
from eatnas_db.schema.record import REVISION, VERSION_TABLE
from eatnas_db.settings import require_supported_database
from eatnas_db.text_encoding import storable_json
from eatnas_db.urls import require_parsable_url, sqlite_file

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection

T = TypeVar("T")

BUSY_SECONDS: Final = 30
"""The seconds that a transaction waits for the locks of other programs."""
IDLE_SECONDS: Final = 10
"""A server rolls back a write transaction that is idle for this many seconds; a frozen program would otherwise block
other programs.
"""
CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 600
"""The seconds that a command waits for the answer of a server. They are enough for a query of the largest record."""

_SERVER_SETTINGS: Final = {
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    # With these keepalives, the server notices within half a minute that a host has lost its power or its network.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def create_engine_for(
    url: str,
    busy_seconds: float = BUSY_SECONDS,
    answer_seconds: float | None = None,
    *,
    kept: bool = False,
) -> Engine:
    """Create an engine; the database need not hold a record. Raises `RecordError` for an unusable database.

    `kept` tells whether the process keeps the engine for hours. If so, each transaction on SQLite reopens the path of
    the database, and each connection to a server is tested before it is used again.

    On SQLite, the engine begins the transactions: the driver would take the write lock too late and commit a migration
    in parts.
    """
    file = sqlite_file(url)
    if file is None:
        engine = _create_postgresql_engine(url, busy_seconds, kept=kept)
        if answer_seconds is not None:
            limit_answers(engine, answer_seconds)
        return engine
    require_single_name(file)
    if file.exists() and not may_write(file):
        return _create_reading_engine(file, busy_seconds)
    # Pass the file instead of the URL, because versions of SQLAlchemy decode the path of a URL differently. If the file
    # exists now, open it with `rw`: once the file is deleted, new connections must fail instead of creating an empty
    # file.
    mode = "rw" if file.exists() else "rwc"
    address = f"{file.absolute().as_uri()}?mode={mode}"
    engine = create_engine(
        URL.create("sqlite", database=str(file)),
        creator=lambda: sqlite3.connect(address, uri=True, timeout=busy_seconds, check_same_thread=False),
        poolclass=NullPool if kept else None,
        json_serializer=storable_json,
        json_deserializer=read_json,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create_reading_engine(file: Path, busy_seconds: float) -> Engine:
    """Create an engine for a file that this user may read but not write.

    Each transaction opens a new connection, because the way to open the file depends on whether a writer has the file
    open.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(file)),
        creator=lambda: connect_for_reading(file, busy_seconds),
        poolclass=NullPool,
        json_deserializer=read_json,
    )
    event.listen(engine, "connect", _leave_transactions_to_engine)
    event.listen(engine, "begin", _begin_reading)
    return engine


def open_record(
    url: str,
    mounts: Path = MOUNTS,
    busy_seconds: float = BUSY_SECONDS,
    answer_seconds: float | None = ANSWER_SECONDS,
) -> Engine:
    """Create an engine for an existing record of this program's version. Raises `RecordError` if there is none.

    `busy_seconds` is the time that a transaction waits for the locks of other programs. `answer_seconds` is the time
    that a statement waits for a server that sends nothing, or None for no limit.
    """
    _require_file(url, mounts)
    engine = create_engine_for(url, busy_seconds, answer_seconds)
    _require_version(engine)
    return engine


def _require_file(url: str, mounts: Path) -> None:
    """Raise `RecordError` if a record's file does not exist, or is on a network file system."""
    file = sqlite_file(url)
    if file is not None:
        refuse_network_file_system(file, mounts)
        if not file.exists():
            raise RecordError(f"no record at {file}; run `eatnas-db init` to create one")


def _require_version(engine: Engine) -> None:
    """Raise `RecordError` unless a database holds a record of this program's version."""
    revision, place = current_revision(engine), describe_location(engine)
    if revision is None:
        raise RecordError(f"{place} holds no eatnas-db record; run `eatnas-db init` to create one")
    if revision != REVISION:
        is_older = revision < REVISION
        raise RecordError(
            f"the record in {place} has {'an older' if is_older else 'a newer'} version ({revision}; this program: "
            f"{REVISION}); {'run `eatnas-db db upgrade`' if is_older else 'update eatnas-db to open it'}"
        )


def current_revision(engine: Engine) -> str | None:
    """Return the Alembic revision of a record, or None if the database holds no record."""
    has_table = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = :name"
    if is_postgresql(engine):
        has_table = "SELECT to_regclass(:name)"
    with read_transaction(engine) as connection:
        if connection.execute(text(has_table), {"name": VERSION_TABLE}).scalar() is None:
            return None
        revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
        return None if revision is None else str(revision)


@contextmanager
def read_connection(url: str) -> Iterator[Connection]:
    """Open a record for one read transaction. Raises `RecordError`."""
    with opened_engine(url) as engine, read_transaction(engine) as connection:
        yield connection


def write_record(url: str, write: Callable[[Connection], T]) -> T:
    """Open a record and call `write` in a transaction; after a conflict, call `write` once more. Raises
    `RecordError`.
    """
    with opened_engine(url) as engine:
        return run_transaction(engine, write)


@contextmanager
def opened_engine(url: str) -> Iterator[Engine]:
    """Open a record for several transactions. Raises `RecordError`."""
    if _KEPT_ENGINES.is_on:
        yield _KEPT_ENGINES.open(url)
        return
    engine = open_record(url)
    try:
        yield engine
    finally:
        engine.dispose()


class _KeptEngines:
    """The engines of a process that answers many requests: one for each record, with its compiled statements."""

    def __init__(self) -> None:
        self.is_on = False
        self._lock = threading.RLock()  # a signal handler may call `dispose` while `open` holds the lock
        self._engines: dict[tuple[str, bool], Engine] = {}

    def open(self, url: str) -> Engine:
        """Return the engine of a record, after checking the record again. Raises `RecordError`."""
        _require_file(url, MOUNTS)
        file = sqlite_file(url)
        if file is not None:
            require_single_name(file)
        key = url, file is None or may_write(file)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = create_engine_for(url, answer_seconds=ANSWER_SECONDS, kept=True)
        _require_version(engine)
        return engine

    def dispose(self) -> None:
        """Close the connections that no thread uses, and forget the engines."""
        self.is_on = False
        with self._lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()


_KEPT_ENGINES: Final = _KeptEngines()


@contextmanager
def kept_engines() -> Iterator[None]:
    """Let all threads of this process open each record with one engine.

    At the end of the context, dispose of the engines.
    """
    _KEPT_ENGINES.is_on = True
    try:
        yield
    finally:
        dispose_kept_engines()


def dispose_kept_engines() -> None:
    """Dispose of the engines of `kept_engines`, in a process that never leaves that context."""
    _KEPT_ENGINES.dispose()


def _leave_transactions_to_engine(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    _leave_transactions_to_engine(connection, record)
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_reading(connection: Connection) -> None:
    if not connection.get_execution_options().get("eatnas_read_only", False):
        raise RecordError(READ_ONLY_FILE.format(file=describe_location(connection.engine)))
    connection.exec_driver_sql("BEGIN")


def _begin_sqlite(connection: Connection) -> None:
    is_read_only = connection.get_execution_options().get("eatnas_read_only", False)
    # With IMMEDIATE, a writer waits for the lock when it begins, instead of failing at its first write.
    connection.exec_driver_sql("BEGIN" if is_read_only else "BEGIN IMMEDIATE")


def _require_utf8(connection: PsycopgConnection[Any], place: str) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        raise RecordError(
            f"{place} has the encoding {encoding}, which cannot store all characters of Unicode; create a database "
            "with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C'"
        )


def _create_postgresql_engine(url: str, busy_seconds: float, *, kept: bool) -> Engine:
    require_supported_database(url)
    require_parsable_url(url, "the database URL")
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise RecordError("the database URL is invalid; expected postgresql://USER@HOST:PORT/DATABASE") from None
    try:
        engine = create_engine(
            address.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            pool_pre_ping=kept,
            # The number of threads of the serving process limits its connections; a lower limit here would make
            # requests wait.
            max_overflow=-1 if kept else 10,
            execution_options={"eatnas_sender": uuid.uuid4().hex},
            connect_args={
                "application_name": "eatnas-db",
                "connect_timeout": CONNECT_SECONDS,
                "tcp_user_timeout": 20_000,
                "keepalives_idle": 10,
                **address.query,
                "client_encoding": "utf8",
            },
            json_serializer=storable_json,
        )
    except ModuleNotFoundError:
        raise RecordError(
            "the PostgreSQL driver is not installed; install it with pip install 'eatnas-db[postgres]'"
        ) from None
    settings = {**_SERVER_SETTINGS, "lock_timeout": f"{round(1000 * busy_seconds)}ms"}
    set_all = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())

    def prepare(connection: PsycopgConnection[Any], _record: object) -> None:
        _require_utf8(connection, describe_location(engine))
        connection.autocommit = True
        connection.execute(set_all)
        connection.autocommit = False

    event.listen(engine, "connect", prepare)
    event.listen(engine, "after_cursor_execute", mark_write)
    return engine
