"""The two scopes of transactions: one for writes and one for reads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.errors import translated_errors
from eatnas_db.database.sqlite_access import ReadingConnection
from eatnas_db.errors import TransactionRollbackError
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.definitions import PREFIX
from eatnas_db.schema.searches import search

T = TypeVar("T")

READER_IDLE_SECONDS: Final = 600
"""The seconds that a read transaction may idle on a server.

A read transaction blocks no other transaction, and its program may be processing a million rows.
"""
CHANNEL: Final = f"{PREFIX}changes"
"""The PostgreSQL channel of change notifications."""

_NOTIFY: Final = text("SELECT pg_notify(:channel, :sender)")
_READER_IDLE_TIMEOUT: Final = text(f"SET LOCAL idle_in_transaction_session_timeout = '{READER_IDLE_SECONDS}s'")
_HAS_WRITTEN: Final = "eatnas_has_written"


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Run the block as one write transaction. No other code of the package commits.

    On PostgreSQL, the isolation level is READ COMMITTED: a later statement may see rows that other transactions have
    committed meanwhile. Take locks first, or guard every write with a condition. Raises `TransactionRollbackError` if
    the transaction conflicts with another one; the caller may then repeat the whole transaction.
    """
    with translated_errors(engine), engine.begin() as connection:
        yield connection
        if connection.info.pop(_HAS_WRITTEN, None):
            sender = connection.get_execution_options()["eatnas_sender"]
            connection.execute(_NOTIFY, {"channel": CHANNEL, "sender": sender})


def run_transaction(engine: Engine, write: Callable[[Connection], T]) -> T:
    """Call `write` in a write transaction and return its result.

    After a conflict with another transaction, call `write` once more.

    Deadlocks and serialization failures are such conflicts. `write` must have no effects outside the database.
    """
    try:
        with transaction(engine) as connection:
            return write(connection)
    except TransactionRollbackError:
        with transaction(engine) as connection:
            return write(connection)


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """Run the block on one consistent snapshot. Keep the block short, because the write-ahead log grows while a reader
    is open.

    The transaction is always rolled back, so a query cannot change the record. Raises `RecordError` if another program
    has begun to write a file that this program may read but not write, because the data may then mix two states.
    """
    options: dict[str, Any] = {"eatnas_read_only": True}
    if is_postgresql(engine):
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with (
        _GC_PAUSED,
        translated_errors(engine),
        engine.connect().execution_options(**options) as connection,
        connection.begin() as snapshot,
    ):
        if is_postgresql(engine):
            connection.execute(_READER_IDLE_TIMEOUT)
        yield connection
        driver = connection.connection.driver_connection
        snapshot.rollback()
        if isinstance(driver, ReadingConnection):
            driver.require_unchanged()


class _GcPaused:
    """Pauses the cyclic garbage collector, which would otherwise take a third of the time of reading a large result.

    Reading rows creates no reference cycles.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._depth:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if not self._depth and self._was_enabled:
                gc.enable()


_GC_PAUSED: Final = _GcPaused()


def mark_write(
    connection: Connection,
    cursor: DBAPICursor,
    _statement: str,
    _parameters: object,
    context: DefaultExecutionContext,
    _many: bool,
) -> None:
    """Mark a transaction that changes searches or candidates, so that other hosts are notified.

    This function is an event listener of SQLAlchemy.
    """
    if (context.isinsert or context.isupdate or context.isdelete) and cursor.rowcount != 0:
        table = getattr(context.invoked_statement, "table", None)
        if table is candidate or table is search:
            connection.info[_HAS_WRITTEN] = True
