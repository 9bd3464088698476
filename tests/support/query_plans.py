"""Explain the statements that a query executes."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event

from eatnas_db.database.dialects import is_postgresql


def explain_statements(connection: Connection, run: Callable[[], Any]) -> list[str]:
    """Run a function and return the database's plan for each of its statements, one step per line.

    On PostgreSQL, disable sequential scans, bitmap scans and sorts for the plans, because for small tables the planner
    prefers them to an index.
    """
    statements: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        statements.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", record)
    run()
    event.remove(connection, "before_cursor_execute", record)
    explain, column = "EXPLAIN QUERY PLAN", 3
    if is_postgresql(connection):
        explain, column = "EXPLAIN", 0
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        connection.exec_driver_sql("SET LOCAL enable_sort = off")
    return [
        "\n".join(row[column] for row in connection.exec_driver_sql(f"{explain} {statement}", parameters))
        for statement, parameters in statements
    ]
