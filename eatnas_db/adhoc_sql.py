"""Run a user's SQL query on a connection that cannot change anything."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine

from eatnas_db.database.engine import open_record
from eatnas_db.database.sqlite_access import connect_for_reading
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import ConflictError
from eatnas_db.queries.views import VIEWS
from eatnas_db.reader_role import READER_ROLE, is_superuser, try_become_reader, view_name
from eatnas_db.settings import Settings
from eatnas_db.sql_guard import REFUSED, Dialect, check_query, to_sql

DEFAULT_LIMIT: Final = 10_000
DEFAULT_SECONDS: Final = 30.0
MAX_VALUE_BYTES: Final = 10_000_000
"""The size in bytes of the largest string or blob on SQLite; a larger value could exhaust the memory."""

_TIMED_OUT: Final = "the query took longer than {:g} seconds; narrow it down, or raise --timeout"
_UNKNOWN_TABLE: Final = f"{{}}; the views are {', '.join(VIEWS)}"
_OPERATIONS_PER_CHECK: Final = 10_000
"""SQLite checks the deadline after this many operations of its virtual machine."""
_ALLOWED_ACTIONS: Final = frozenset([sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE])
_FORBIDDEN_FUNCTIONS: Final = frozenset(["load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"])
"""Functions that load code or access files. `sql_guard` already refuses these functions; this set is a second check."""
_FORBIDDEN_TABLES: Final = ("sqlite_", "pragma_", "dbstat")


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The columns and rows of a query; `truncated` is true if the limit left out further rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool


def run_query(
    settings: Settings, query: str, *, limit: int = DEFAULT_LIMIT, seconds: float = DEFAULT_SECONDS
) -> QueryResult:
    """Return at most `limit` rows of one SELECT over the views of `queries.views`.

    Raises `RecordError` if the record cannot be read. Raises `ConflictError` if `query` is not one SELECT over the
    views, calls a function that is not allowed, or takes longer than `seconds`.
    """
    dialect: Dialect = "postgres" if settings.database_file is None else "sqlite"
    statement = check_query(query, dialect)
    engine = open_record(settings.database_url)
    try:
        if settings.database_file is None:
            return _run_on_postgresql(engine, to_sql(statement, dialect), limit, seconds)
    finally:
        engine.dispose()
    return _run_on_sqlite(settings.database_file, query, limit, seconds)


def _run_on_sqlite(file: Path, query: str, limit: int, seconds: float) -> QueryResult:
    with _guarded_connection(file, time.monotonic() + seconds) as connection:
        try:
            cursor = connection.execute(query)
            rows = cursor.fetchmany(limit + 1)
        # Before Python 3.12, sqlite3 raises Warning for a second statement, and Warning is not a subclass of Error.
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise ConflictError(_describe_sqlite_error(str(error), seconds)) from None
        if cursor.description is None:
            raise ConflictError("the query is empty; write a SELECT statement over the views")
        return _build_result([name for name, *_ in cursor.description], rows, limit)


@contextmanager
def _guarded_connection(file: Path, deadline: float) -> Iterator[sqlite3.Connection]:
    # Read-only mode is not enough: a read-only connection can still attach another file and write to it.
    with closing(connect_for_reading(file, timeout=5)) as connection:
        connection.execute("PRAGMA temp_store = MEMORY")
        for name, query in VIEWS.items():
            connection.execute(f"CREATE TEMP VIEW {name} AS {query}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPERATIONS_PER_CHECK)
        connection.set_authorizer(_authorize)
        yield connection
        connection.require_unchanged()


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _through: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        allowed = (second or "").lower() not in _FORBIDDEN_FUNCTIONS
    elif action == sqlite3.SQLITE_READ:
        allowed = not (first or "").lower().startswith(_FORBIDDEN_TABLES)
    else:
        allowed = action in _ALLOWED_ACTIONS
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _describe_sqlite_error(cause: str, seconds: float) -> str:
    if cause == "interrupted":
        return _TIMED_OUT.format(seconds)
    if any(phrase in cause for phrase in ("not authorized", "authorization denied", "one statement")):
        return REFUSED.format(cause)
    if "too big" in cause:
        return f"the query uses a value of more than {MAX_VALUE_BYTES:,} bytes; select a part of it with substr()"
    if "no such table" in cause:
        return _UNKNOWN_TABLE.format(cause)
    return f"the query is invalid: {cause}"


def _run_on_postgresql(engine: Engine, query: str, limit: int, seconds: float) -> QueryResult:
    from psycopg import Error

    with read_transaction(engine) as connection:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(1000 * seconds))}")
        statement = f"WITH {_view_queries(connection)} SELECT * FROM (\n{query}\n) AS user_query LIMIT {limit + 1}"  # noqa: S608
        driver: Any = connection.connection.driver_connection
        try:
            # Prepare the statement, because the server then refuses several statements in one string. A COMMIT among
            # them would end the read-only transaction.
            cursor = driver.execute(statement.encode(), prepare=True)
            rows = cursor.fetchall()
        except (Error, UnicodeEncodeError) as error:
            raise ConflictError(_describe_postgresql_error(error, seconds)) from None
        return _build_result([column.name for column in cursor.description], rows, limit)


def _view_queries(connection: Connection) -> str:
    """Return the views as the common table expressions of a WITH clause. Raises `ConflictError` if the user is a
    superuser of the server.
    """
    if try_become_reader(connection):
        return ", ".join(f"{name} AS (SELECT * FROM {view_name(name)})" for name in VIEWS)  # noqa: S608
    if is_superuser(connection):
        raise ConflictError(
            f"`query sql` does not run as a superuser of the server; run `eatnas-db db upgrade`, which creates the "
            f"role {READER_ROLE}, or connect as a user who only has SELECT on the tables"
        )
    return ", ".join(f"{name} AS ({view})" for name, view in VIEWS.items())


def _describe_postgresql_error(error: Exception, seconds: float) -> str:
    cause = (str(error).splitlines() or ["no error message"])[0]
    state = getattr(error, "sqlstate", None)
    if state == "57014":
        return _TIMED_OUT.format(seconds)
    if state == "42P01":
        return _UNKNOWN_TABLE.format(cause)
    if state in ("25006", "42501", "42601"):
        return REFUSED.format(cause)
    return f"the query is invalid: {cause}"


def _build_result(columns: list[str], rows: list[tuple[Any, ...]], limit: int) -> QueryResult:
    plain_rows = tuple(tuple(_hex_if_bytes(value) for value in row) for row in rows[:limit])
    return QueryResult(tuple(columns), plain_rows, len(rows) > limit)


def _hex_if_bytes(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
