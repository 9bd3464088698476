"""Notice changes that other programs make to the database."""

from __future__ import annotations

import selectors

from sqlalchemy import Engine

from eatnas_db.database.changes import watch_changes


class ChangeListener:
    """Remembers whether the database has changed since the last successful transaction of the supervisor.

    On a server, notifications wake the supervisor through its selector.
    """

    def __init__(self, engine: Engine, selector: selectors.BaseSelector) -> None:
        self._watch, self._selector = watch_changes(engine), selector
        self._registered: int | None = None
        self.changed = False

    def lock_host(self, host_id: int, name: str) -> None:
        """On a server, lock the host for this supervisor. Raises `ConflictError` if another supervisor has the lock."""
        self._watch.lock_host(host_id, name)

    @property
    def holds_host(self) -> bool:
        """Return whether the lock of the host is held. A lost connection to the server releases the lock."""
        return self._watch.holds_host

    def poll(self) -> None:
        """Set `changed` if another program has committed. Raises `RecordError`."""
        self.changed = self._watch.changed() or self.changed
        descriptor = self._watch.fileno
        if descriptor == self._registered:
            return
        if self._registered is not None:
            self._selector.unregister(self._registered)
        if descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._registered = descriptor

    def close(self) -> None:
        """Close the connection."""
        self._watch.close()
