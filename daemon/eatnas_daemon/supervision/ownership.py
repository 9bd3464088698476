"""Check before every write that the supervisor still owns its home, its database and its host."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from eatnas_daemon.supervision.change_listener import ChangeListener
from eatnas_daemon.supervision.host_session import SupervisedHost
from eatnas_db import hosts
from eatnas_db.errors import RecordError
from eatnas_db.file_identity import FileIdentity
from eatnas_db.settings import Settings


class Ownership:
    """Checks what a supervisor owns: the home, the lock file, and the SQLite file or, on a server, the host."""

    def __init__(self, settings: Settings, host: SupervisedHost, changes: ChangeListener) -> None:
        self._host, self._changes = host, changes
        files = [FileIdentity(settings.home, "the home"), FileIdentity(settings.lock_file, "the lock file")]
        if settings.database_file is not None:
            files.append(FileIdentity(settings.database_file, "the database"))
        self._files: Sequence[FileIdentity] = files

    def require_files(self) -> None:
        """Raise `OwnershipError` if a file was deleted or replaced, because another daemon may use the new file."""
        for file in self._files:
            file.require_unchanged()

    def require_host(self, connection: Connection) -> None:
        """Raise `OwnershipError` if another daemon owns the host. Until the transaction ends, no daemon can take the
        host.

        Raises `RecordError` if the lock of the host was lost with the connection, because without the lock other
        programs do not notice this supervisor. The listener acquires the lock again.
        """
        hosts.require_owner(connection, self._host.id, self._host.owner)
        if not self._changes.holds_host:
            raise RecordError(
                "the connection that holds this host's lock was lost; the daemon writes again when it holds the lock"
            )
