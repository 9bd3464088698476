"""Open SQLite files that this user may only read, without leaving a file next to them.

In WAL mode even a reader writes: it creates the shared memory (`-shm`) and the log. A reader that may not write the
database must not create them, since its owner could not write to them afterwards.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from eatnas_db.errors import RecordError

ATTEMPTS: Final = 3


def may_write(file: Path) -> bool:
    """Return whether this process may write a database file and the files that SQLite keeps next to it."""
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)


def connect_for_reading(file: Path, timeout: float) -> sqlite3.Connection:
    """Open an existing database file for reads. Raises `RecordError`, and the errors of `sqlite3`.

    The connection may be used by several threads, one at a time.
    """
    for _ in range(ATTEMPTS):
        connection = _connect(file, timeout)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()  # The last writer may have closed the file, and removed its log, in the meantime.
        else:
            return connection
    return _connect(file, timeout)


def _connect(file: Path, timeout: float) -> sqlite3.Connection:
    uri = f"{file.absolute().as_uri()}?{_parameters(file)}"
    return sqlite3.connect(uri, uri=True, timeout=timeout, check_same_thread=False)


def _parameters(file: Path) -> str:
    if may_write(file):
        return "mode=ro"
    log, memory = (file.with_name(file.name + suffix) for suffix in ("-wal", "-shm"))
    if memory.exists() and log.exists():
        return "mode=ro"  # The programs that write share their memory with this one.
    if _size(log):
        raise RecordError(
            f"{file} was not closed properly, and you may not write to its folder, which recovers it; ask its owner to "
            f"run `eatnas-db search list`, or copy it and {log.name} to a folder of your own"
        )
    # No program writes: its log would be there.
    return "mode=ro&immutable=1"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
