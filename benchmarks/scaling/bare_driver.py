"""Record the statements that SQLAlchemy executes, and execute them again with the bare driver."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


class Statement(NamedTuple):
    """A statement as the driver receives it."""

    text: str
    parameters: Any = None
    many: bool = False
    """Whether the statement is executed by `executemany`."""


COMMIT = Statement("COMMIT")


@contextmanager
def recorded_statements(engine: Engine, *, commits: bool = False) -> Iterator[list[Statement]]:
    """Yield a list that collects the statements of the block and, if `commits` is true, its commits."""
    statements: list[Statement] = []

    def append(_connection: Any, _cursor: Any, text: str, parameters: Any, _context: Any, many: bool) -> None:
        statements.append(Statement(text, parameters, many))

    def append_commit(_connection: Any) -> None:
        statements.append(COMMIT)

    event.listen(engine, "before_cursor_execute", append)
    if commits:
        event.listen(engine, "commit", append_commit)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", append)
        if commits:
            event.remove(engine, "commit", append_commit)


def execute_again(connection: Any, statements: Sequence[Statement]) -> None:
    """Execute statements on a connection of the driver and fetch their results."""
    cursor = connection.cursor()
    for text, parameters, many in statements:
        if many:
            cursor.executemany(text, parameters)
            continue
        cursor.execute(text) if parameters is None else cursor.execute(text, parameters)
        if cursor.description is not None:
            cursor.fetchall()


def open_sqlite(file: str) -> sqlite3.Connection:
    """Open an SQLite file with the pragmas of a record."""
    connection = sqlite3.connect(file, isolation_level=None)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


@contextmanager
def bare_connection(engine: Engine) -> Iterator[Any]:
    """Yield a connection of the bare driver to the database of an engine."""
    if engine.dialect.name == "sqlite":
        connection = open_sqlite(str(engine.url.database))
        yield connection
        connection.close()
        return
    import psycopg

    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as server:
        yield server


def milliseconds_in_database(bare: Any, statement: Statement) -> float:
    """Execute a query. Return the time that the server reports or, on SQLite, the time until all rows are fetched."""
    if statement.text.startswith("BEGIN"):
        return 0.0
    if isinstance(bare, sqlite3.Connection):
        started = time.perf_counter()
        bare.execute(statement.text, statement.parameters).fetchall()
        return 1000 * (time.perf_counter() - started)
    plan = bare.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {statement.text}", statement.parameters).fetchall()
    bare.rollback()
    return sum(float(match[1]) for (line,) in plan if (match := re.search(r"Execution Time: ([\d.]+)", line)))


def milliseconds_of_lineage(bare: Any, candidate_id: int, rows: int) -> float:
    """Read the lineage of a candidate with one recursive statement, check the number of rows, and return the time."""
    started = time.perf_counter()
    found = bare.execute(
        "WITH RECURSIVE family(id, parent_id, generation) AS ("
        f"SELECT id, parent_id, 0 FROM eatnas_candidate WHERE id = {candidate_id} UNION ALL "
        "SELECT c.id, c.parent_id, generation + 1 FROM eatnas_candidate c JOIN family ON c.id = family.parent_id) "
        "SELECT c.id, c.parent_id, generation, c.birth, c.origin, c.state, c.fitness, c.code "
        "FROM family JOIN eatnas_candidate c ON c.id = family.id ORDER BY generation"
    ).fetchall()
    assert len(found) == rows, (len(found), rows)
    return 1000 * (time.perf_counter() - started)
