"""Notice what other programs write to a record."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from typing import Any, Final, Protocol

from sqlalchemy import Engine, func, select, text

from eatnas_db.database.dialects import describe_location, detached_connection, is_postgresql
from eatnas_db.database.errors import translated_errors
from eatnas_db.database.locks import HOST_LOCK
from eatnas_db.database.transactions import CHANNEL, read_transaction
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.schema.events import event as events
from eatnas_db.schema.record import REVISION, VERSION_TABLE

RECONNECT_SECONDS: Final = 2.0


class EventWatermark:
    """How far the events are complete: up to there no open transaction can add one any more.

    A server numbers events before their transactions are committed, so a later one may be seen before an earlier
    one: who goes on from the last that was seen would miss it. Nobody is waited for; each look tells what has ended
    since the one before.
    """

    def __init__(self) -> None:
        self._reached = self._next = 0
        self._writers: frozenset[str] = frozenset()

    def advance(self, engine: Engine) -> int:
        """The id of the last event up to which all can be read, by a transaction that begins after this."""
        with read_transaction(engine) as connection:
            newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
            # After the numbers, and not as of the same moment: whoever wrote one of them is seen, or has ended.
            now = frozenset(connection.execute(_EVENT_WRITERS).scalars()) if is_postgresql(connection) else frozenset()
        if not now & self._writers:
            self._reached, self._next, self._writers = self._next, newest, now
        if not now:
            self._reached = newest
        return self._reached


class ChangeWatch(Protocol):
    """Tells whether somebody else has written since the last look, for next to nothing."""

    @property
    def fileno(self) -> int | None:
        """Readable when there may be something to tell; None where one has to look."""

    def changed(self) -> bool:
        """True at the first look, then whenever another program has committed. May be True for nothing.

        Raises `RecordError` where the record was brought to another version meanwhile.
        """

    def lock_host(self, host_id: int, name: str) -> None:
        """Be this host's one supervisor on a server, until closed or dead. Raises `ConflictError`."""

    def close(self) -> None:
        """Give the connection back."""


def watch_changes(engine: Engine) -> ChangeWatch:
    """Watch what others write."""
    return _PostgresChanges(engine) if is_postgresql(engine) else _SqliteChanges(engine)


class _SqliteChanges:
    """SQLite's count of the commits of others, asked by one PRAGMA."""

    @property
    def fileno(self) -> None:
        return None

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._seen: Any = None

    def changed(self) -> bool:
        try:
            ((version,),) = self._connection.cursor().execute("PRAGMA data_version").fetchall()
        except sqlite3.Error:
            return True  # what is wrong is told by the transaction that looks
        before, self._seen = self._seen, version
        return bool(before != version)

    def lock_host(self, host_id: int, name: str) -> None:
        """The lock beside the file has seen to it."""

    def close(self) -> None:
        self._connection.close()


class _PostgresChanges:
    """PostgreSQL's LISTEN, on a connection of its own that is made again when it is lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._host_id: int | None = None
        self._missed = False
        self._try_at = 0.0

    @property
    def fileno(self) -> int | None:
        return None if self._connection is None else int(self._connection.fileno())

    def changed(self) -> bool:
        if self._connection is None:
            self._connect_again()
        heard, self._missed = self._missed, False
        if self._connection is None:
            return heard
        from psycopg import Error

        own = self._engine.get_execution_options()["eatnas_sender"].encode()
        try:
            self._connection.pgconn.consume_input()
            while (note := self._connection.pgconn.notifies()) is not None:
                heard = heard or note.extra != own
        except Error:
            self.close()
        return heard

    def _connect_again(self) -> None:
        if time.monotonic() < self._try_at:
            return
        self._try_at = time.monotonic() + RECONNECT_SECONDS
        found = None
        # Who cannot connect is told so by the next transaction.
        with suppress(RecordError), translated_errors(self._engine):
            self._listen()
            if self._host_id is not None:
                # In vain while the server has not noticed yet that our last connection is gone.
                self._take()
            found = self._connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
        if found is not None and found[0] != REVISION:
            # While we were not seen, nothing kept anybody from it.
            self.close()
            raise RecordError(
                f"the record in {describe_location(self._engine)} was migrated to version {found[0]} (this program: "
                f"{REVISION}); update eatnas-db and start again: interrupted trainings continue from their checkpoints"
            )

    def lock_host(self, host_id: int, name: str) -> None:
        self._host_id = host_id
        with translated_errors(self._engine):
            if self._connection is None:
                self._listen()
            if not self._take():
                raise ConflictError(
                    f"a daemon of host {name!r} works on this record already, from another home or machine; "
                    "EATNAS_HOST gives this one a name of its own"
                )

    def _listen(self) -> None:
        self._connection = detached_connection(self._engine)
        self._connection.execute(f"LISTEN {CHANNEL}")
        self._missed = True

    def _take(self) -> bool:
        locked = self._connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (HOST_LOCK, self._host_id))
        return bool(locked.fetchone()[0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_EVENT_WRITERS: Final = text(
    "SELECT virtualtransaction FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'relation' AND relation = to_regclass(:name) AND mode = 'RowExclusiveLock' AND granted "
    "AND datname = current_database()"
).bindparams(name=events.name)
