"""Run a user's SQL query on a connection that cannot change anything."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import ConflictError
from eatnas_db.queries.views import VIEWS
from eatnas_db.settings import Settings

DEFAULT_LIMIT: Final = 10_000
DEFAULT_SECONDS: Final = 30.0
MAX_VALUE_BYTES: Final = 10_000_000
"""The largest string or blob on SQLite; a larger one could exhaust the memory."""

_TIMED_OUT: Final = "the query took longer than {:g} seconds; narrow it down, or raise --timeout"
_NOT_A_SELECT: Final = "only a single SELECT statement is allowed: {}"
_UNKNOWN_TABLE: Final = f"{{}}; the views are {', '.join(VIEWS)}"
_OPERATIONS_PER_CHECK: Final = 10_000
"""SQLite checks the deadline after this many operations of its virtual machine."""
_ALLOWED_ACTIONS: Final = frozenset(
    [sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE]
)
_FORBIDDEN_FUNCTIONS: Final = ("load_extension", "fts3_tokenizer")
"""They load code into the process."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The columns and rows of a query; `truncated`: there were more rows than the limit."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool


def run_query(
    settings: Settings, query: str, *, limit: int = DEFAULT_LIMIT, seconds: float = DEFAULT_SECONDS
) -> QueryResult:
    """Return at most `limit` rows of one SELECT over the tables and the views of `queries.views`.

    Raises `RecordError`, and `ConflictError` if `query` is not a valid SELECT or takes longer than `seconds`.
    """
    engine = open_record(settings.database_url)
    try:
        if settings.database_file is None:
            return _run_on_postgresql(engine, query, limit, seconds)
    finally:
        engine.dispose()
    return _run_on_sqlite(settings.database_file, query, limit, seconds)


def _run_on_sqlite(file: Path, query: str, limit: int, seconds: float) -> QueryResult:
    with _guarded_connection(file, time.monotonic() + seconds) as connection:
        try:
            cursor = connection.execute(query)
            rows = cursor.fetchmany(limit + 1)
        # Before Python 3.12 a second statement raises a Warning, which is not an Error.
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise ConflictError(_describe_sqlite_error(str(error), seconds)) from None
        if cursor.description is None:
            raise ConflictError("the query is empty; write a SELECT statement, see docs/queries.md for examples")
        return _build_result([name for name, *_ in cursor.description], rows, limit)


@contextmanager
def _guarded_connection(file: Path, deadline: float) -> Iterator[sqlite3.Connection]:
    # Read-only mode is not enough: such a connection can still attach another file and write to it.
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        connection.execute("PRAGMA temp_store = MEMORY")
        for name, query in VIEWS.items():
            connection.execute(f"CREATE TEMP VIEW {name} AS {query}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPERATIONS_PER_CHECK)
        connection.set_authorizer(_authorize)
        yield connection


def _authorize(action: int, _first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    loads_code = action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_OK if action in _ALLOWED_ACTIONS and not loads_code else sqlite3.SQLITE_DENY


def _describe_sqlite_error(cause: str, seconds: float) -> str:
    if cause == "interrupted":
        return _TIMED_OUT.format(seconds)
    if any(phrase in cause for phrase in ("not authorized", "authorization denied", "one statement")):
        return _NOT_A_SELECT.format(cause)
    if "too big" in cause:
        return f"the query uses a value of more than {MAX_VALUE_BYTES:,} bytes; select a part of it with substr()"
    if "no such table" in cause:
        return _UNKNOWN_TABLE.format(cause)
    return f"the query is invalid: {cause}"


def _run_on_postgresql(engine: Engine, query: str, limit: int, seconds: float) -> QueryResult:
    from psycopg import Error

    views = ", ".join(f"{name} AS ({view})" for name, view in VIEWS.items())
    # As a subquery, the user's statement can only be a SELECT.
    subquery = query.strip().rstrip(";")
    statement = f"WITH {views} SELECT * FROM (\n{subquery}\n) AS user_query LIMIT {limit + 1}"  # noqa: S608
    with read_transaction(engine) as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(1000 * seconds))}")
        driver: Any = connection.connection.driver_connection
        try:
            # The server refuses several statements only if they are prepared; a COMMIT would end READ ONLY.
            cursor = driver.execute(statement.encode(), prepare=True)
            rows = cursor.fetchall()
        except (Error, UnicodeEncodeError) as error:
            raise ConflictError(_describe_postgresql_error(error, seconds)) from None
        return _build_result([column.name for column in cursor.description], rows, limit)


def _describe_postgresql_error(error: Exception, seconds: float) -> str:
    cause = (str(error).splitlines() or ["no error message"])[0]
    state = getattr(error, "sqlstate", None)
    if state == "57014":
        return _TIMED_OUT.format(seconds)
    if state == "42P01":
        return _UNKNOWN_TABLE.format(cause)
    return _NOT_A_SELECT.format(cause)


def _build_result(columns: list[str], rows: list[tuple[Any, ...]], limit: int) -> QueryResult:
    plain_rows = tuple(tuple(_hex_if_bytes(value) for value in row) for row in rows[:limit])
    return QueryResult(tuple(columns), plain_rows, len(rows) > limit)


def _hex_if_bytes(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
