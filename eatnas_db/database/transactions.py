"""The one transaction scope for writes, and the one for reads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.errors import translated_errors
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.definitions import PREFIX
from eatnas_db.schema.searches import search

READING_SECONDS: Final = 600
"""The same for one that only reads: it holds nobody up, and may have a million rows to look at."""


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One write transaction: everything or nothing. The only place that commits.

    On a server what it reads may change from one statement to the next (READ COMMITTED): take locks first, or
    guard what you write. Raises `TransactionRollbackError` where it met another one and is to be repeated as a whole.
    """
    with translated_errors(engine), engine.begin() as connection:
        yield connection
        if connection.info.pop(WROTE, None):
            sender = connection.get_execution_options()["eatnas_sender"]
            connection.execute(NOTIFY, {"channel": CHANNEL, "sender": sender})


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """One consistent view of the record. Keep it short: an open reader lets the write-ahead log grow."""
    options: dict[str, Any] = {"eatnas_reading": True}
    if is_postgresql(engine):
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with (
        _GARBAGE_COLLECTION_PAUSED,
        translated_errors(engine),
        engine.connect().execution_options(**options) as connection,
        connection.begin(),
    ):
        if is_postgresql(engine):
            connection.execute(_READER_IDLE_TIMEOUT)
        yield connection


class _GarbageCollectionPaused:
    """No search for cyclic garbage meanwhile: rows have no cycles, and to look takes a third of a long answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._before:
                gc.enable()


_GARBAGE_COLLECTION_PAUSED: Final = _GarbageCollectionPaused()


WROTE: Final = "eatnas_wrote"


CHANNEL: Final = f"{PREFIX}changes"


NOTIFY: Final = text("SELECT pg_notify(:channel, :sender)")


_READER_IDLE_TIMEOUT: Final = text(f"SET LOCAL idle_in_transaction_session_timeout = '{READING_SECONDS}s'")


def mark_write(connection: Connection, cursor: Any, _sql: str, _given: Any, context: Any, _many: bool) -> None:
    """Remember that this transaction has written what other hosts may be waiting for."""
    if (context.isinsert or context.isupdate or context.isdelete) and cursor.rowcount != 0:
        table = getattr(context.invoked_statement, "table", None)
        if table is candidate or table is search:
            connection.info[WROTE] = True
