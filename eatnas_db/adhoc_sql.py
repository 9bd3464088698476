"""A question of the user's own, in SQL, on a connection that cannot change anything."""

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

DEFAULT_SECONDS: Final = 30.0
MAX_VALUE_BYTES: Final = 10_000_000
"""Bytes of one text or blob, lest a question fill the memory."""

_TOO_LONG: Final = "the question took longer than {:g} seconds; narrow it down, or allow more by --timeout"
_OPERATIONS_BETWEEN_LOOKS: Final = 10_000
_ALLOWED: Final = frozenset(
    [sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE]
)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Columns and rows; `truncated` says that there were more."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool


def run_query(
    settings: Settings, question: str, *, limit: int = 10_000, seconds: float = DEFAULT_SECONDS
) -> QueryResult:
    """The answer to one SELECT over the tables and the views of `queries.views`.

    Raises `RecordError`, and `ConflictError` for what is no SELECT, is wrong, or takes longer than `seconds`.
    """
    engine = open_record(settings.database_url)
    file = settings.database_file
    try:
        if file is None:
            return _ask_server(engine, question, limit, seconds)
    finally:
        engine.dispose()
    with _guarded(file, time.monotonic() + seconds) as connection:
        try:
            cursor = connection.execute(question)
            rows = cursor.fetchmany(limit + 1)
        # Before Python 3.12 a second statement is a Warning, which is no Error.
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise ConflictError(_in_words(str(error), seconds)) from None
        if cursor.description is None:
            raise ConflictError("that is no SELECT: there is nothing to answer; docs/queries.md has examples")
        columns = tuple(name for name, *_ in cursor.description)
        return QueryResult(columns, tuple(tuple(map(_plain, row)) for row in rows[:limit]), len(rows) > limit)


def _ask_server(engine: Engine, question: str, limit: int, seconds: float) -> QueryResult:
    from psycopg import Error

    views = ", ".join(f"{name} AS ({query})" for name, query in VIEWS.items())
    # Inside another SELECT a question can be nothing else itself.
    inner = question.strip().rstrip(";")
    whole = f"WITH {views} SELECT * FROM (\n{inner}\n) AS question LIMIT {limit + 1}"  # noqa: S608
    with read_transaction(engine) as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(1000 * seconds))}")
        driver: Any = connection.connection.driver_connection
        try:
            # Prepared: only so does the server refuse a second statement, such as a COMMIT that would end READ ONLY.
            cursor = driver.execute(whole.encode(), prepare=True)
            rows = cursor.fetchall()
        except (Error, UnicodeEncodeError) as error:
            raise ConflictError(_in_the_servers_words(error, seconds)) from None
        columns = tuple(one.name for one in cursor.description)
    return QueryResult(columns, tuple(tuple(map(_plain, row)) for row in rows[:limit]), len(rows) > limit)


def _in_the_servers_words(error: Exception, seconds: float) -> str:
    cause = (str(error).splitlines() or ["nothing"])[0]
    state = getattr(error, "sqlstate", None)
    if state == "57014":
        return _TOO_LONG.format(seconds)
    if state == "42P01":
        return f"{cause}; the views are {', '.join(VIEWS)}"
    return f"only one SELECT may be asked here, and PostgreSQL says: {cause}"


@contextmanager
def _guarded(file: Path, deadline: float) -> Iterator[sqlite3.Connection]:
    # A read-only file is not enough: such a connection may still attach another one, and write there.
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        connection.execute("PRAGMA temp_store = MEMORY")
        for name, query in VIEWS.items():
            connection.execute(f"CREATE TEMP VIEW {name} AS {query}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPERATIONS_BETWEEN_LOOKS)
        connection.set_authorizer(_judge)
        yield connection


def _judge(action: int, _first: str | None, second: str | None, _database: str | None, _inner: str | None) -> int:
    loads_code = action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "fts3_tokenizer")
    return sqlite3.SQLITE_OK if action in _ALLOWED and not loads_code else sqlite3.SQLITE_DENY


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _in_words(cause: str, seconds: float) -> str:
    if cause == "interrupted":
        return _TOO_LONG.format(seconds)
    if "not authorized" in cause or "authorization denied" in cause:
        return f"only SELECT may be asked here: {cause}"
    if "one statement" in cause:
        return "one statement at a time, please"
    if "too big" in cause:
        return f"a value of more than {MAX_VALUE_BYTES:,} bytes: ask for less of it"
    if "no such table" in cause:
        return f"{cause}; the views are {', '.join(VIEWS)}"
    return f"SQLite does not understand the question: {cause}"
