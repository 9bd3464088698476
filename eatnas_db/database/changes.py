"""Detect commits by other programs."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import Engine

from eatnas_db.database.dialects import describe_location, detached_connection, is_postgresql
from eatnas_db.database.errors import translated_errors
from eatnas_db.database.locks import HOST_LOCK, SCHEMA_LOCK
from eatnas_db.database.transactions import CHANNEL
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.schema.record import REVISION, VERSION_TABLE

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection

RECONNECT_SECONDS: Final = 2.0
"""The shortest time between two attempts to reconnect."""


_OWN_SESSION: Final = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_END_SESSION: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"


class ChangeWatch(Protocol):
    """Detects commits by other programs with almost no load on the database."""

    @property
    def fileno(self) -> int | None:
        """A descriptor that becomes readable after a change; None if the caller has to poll `changed`."""

    def changed(self) -> bool:
        """Return whether another program may have committed since the previous call; the first call returns True.

        Raises `RecordError` if the record has been migrated to another version or deleted.
        """

    def lock_host(self, host_id: int, name: str) -> None:
        """Lock a host for this supervisor until `close`, or until the process exits. Raises `ConflictError`."""

    @property
    def holds_host(self) -> bool:
        """Return whether this program holds the lock of its host, as far as it knows.

        Without the lock, the program writes nothing.
        """

    def close(self) -> None:
        """Close the connection."""


def watch_changes(engine: Engine) -> ChangeWatch:
    """Start to watch for changes by other programs. Call `close` of the result at the end."""
    return _PostgresqlWatch(engine) if is_postgresql(engine) else _SqliteWatch(engine)


class _SqliteWatch:
    """Reads SQLite's counter of commits by other connections."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._commits: int | None = None

    @property
    def fileno(self) -> None:
        return None

    def changed(self) -> bool:
        try:
            ((counter,),) = self._connection.cursor().execute("PRAGMA data_version").fetchall()
        except sqlite3.Error:
            return True  # the caller's next transaction reports the error
        previous, self._commits = self._commits, int(counter)
        return previous != self._commits

    def lock_host(self, host_id: int, name: str) -> None:
        """Do nothing: the lock file next to the database already excludes a second supervisor."""

    @property
    def holds_host(self) -> bool:
        return True

    def close(self) -> None:
        self._connection.close()


class _PostgresqlWatch:
    """Listens for notifications on a separate connection, and reconnects if the connection is lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: PsycopgConnection[Any] | None = None
        self._host_id: int | None = None
        self._holds_host = False
        self._session: tuple[Any, ...] | None = None
        self._may_have_missed_changes = False
        self._reconnect_at = 0.0

    @property
    def fileno(self) -> int | None:
        return None if self._connection is None else self._connection.fileno()

    def changed(self) -> bool:
        if self._connection is None or (self._host_id is not None and not self._holds_host):
            self._reconnect()
        changed, self._may_have_missed_changes = self._may_have_missed_changes, False
        if self._connection is None:
            return changed
        from psycopg import Error

        own_sender = self._engine.get_execution_options()["eatnas_sender"].encode()
        try:
            self._connection.pgconn.consume_input()
            while (notification := self._connection.pgconn.notifies()) is not None:
                changed = changed or notification.extra != own_sender
        except Error:
            self.close()
        return changed

    def lock_host(self, host_id: int, name: str) -> None:
        with translated_errors(self._engine):
            connection = self._connection or self._listen()
            if not self._try_lock_host(connection, host_id):
                raise ConflictError(
                    f"another daemon is already working on this record as host {name!r}, from another home or machine; "
                    "stop that daemon, or set EATNAS_HOST to another name"
                )
            revision = _read_revision(connection)
        self._require_revision(revision)
        self._host_id = host_id

    @property
    def holds_host(self) -> bool:
        return self._connection is not None and self._holds_host

    def close(self) -> None:
        self._holds_host = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reconnect(self) -> None:
        if time.monotonic() < self._reconnect_at:
            return
        self._reconnect_at = time.monotonic() + RECONNECT_SECONDS
        is_verified = False
        revision: str | None = None
        # The caller's next transaction reports why the connection fails.
        with suppress(RecordError), translated_errors(self._engine):
            connection = self._connection or self._listen()
            if self._host_id is not None:
                # The lock is unavailable until the server notices that the previous connection is gone, or while
                # another daemon uses the name of the host. The column `owner` of the host tells the two cases apart.
                self._try_lock_host(connection, self._host_id)
            revision, is_verified = _read_revision(connection), True
            self._may_have_missed_changes = True
        if is_verified:
            self._require_revision(revision)
        else:
            self.close()

    def _require_revision(self, revision: str | None) -> None:
        """Raise `RecordError` if another program migrated or deleted the record while this program did not hold its
        lock.
        """
        if revision == REVISION:
            return
        self.close()
        place = describe_location(self._engine)
        if revision is None:
            raise RecordError(f"the record in {place} was deleted; restore a backup, or run `eatnas-db init`")
        raise RecordError(
            f"the record in {place} was migrated to version {revision} (this program: {REVISION}); update eatnas-db "
            "and start again; interrupted trainings continue from their checkpoints"
        )

    def _try_lock_host(self, connection: PsycopgConnection[Any], host_id: int) -> bool:
        row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (HOST_LOCK, host_id)).fetchone()
        self._holds_host = row is not None and bool(row[0])
        if self._holds_host:
            self._session = connection.execute(_OWN_SESSION).fetchone()
        elif self._session is not None:
            # End the previous session, because the server may not have noticed yet that its connection is gone.
            connection.execute(_END_SESSION, self._session)
        return self._holds_host

    def _listen(self) -> PsycopgConnection[Any]:
        self._connection = detached_connection(self._engine)
        self._connection.execute(f"LISTEN {CHANNEL}")
        self._may_have_missed_changes = True
        return self._connection


def _read_revision(connection: PsycopgConnection[Any]) -> str | None:
    """Return the revision of the schema, or None if there is no record. Wait until a running migration has ended."""
    connection.execute("SELECT pg_advisory_lock_shared(%s, 0)", (SCHEMA_LOCK,))
    try:
        row = connection.execute("SELECT to_regclass(%s)", (VERSION_TABLE,)).fetchone()
        if row is None or row[0] is None:
            return None
        row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
        return None if row is None else str(row[0])
    finally:
        connection.execute("SELECT pg_advisory_unlock_shared(%s, 0)", (SCHEMA_LOCK,))
