"""Check a SQLite file: its pages, and the foreign keys of its rows."""

from __future__ import annotations

from sqlalchemy import Engine

from eatnas_db.database.transactions import read_transaction
from eatnas_db.integrity.violations import Violation, summarize_offenders


def check_database_file(engine: Engine) -> list[Violation]:
    """Run SQLite's `integrity_check`."""
    with read_transaction(engine) as connection:
        lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return summarize_offenders(
        "the database file is undamaged", "errors", [" ".join(line.split()) for line in lines if line != "ok"]
    )


def check_foreign_keys(engine: Engine) -> list[Violation]:
    """Find rows that refer to missing rows. Another program can leave such rows if it does not enforce foreign keys."""
    with read_transaction(engine) as connection:
        dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    rows = [
        f"{table} refers to a missing {target}" + ("" if rowid is None else f" (row {rowid})")
        for table, rowid, target, _ in dangling
    ]
    return summarize_offenders("every referenced row exists", "rows", rows)
