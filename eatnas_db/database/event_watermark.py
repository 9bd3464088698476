"""Find the event id up to which every event is visible."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, func, select, text

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.transactions import read_transaction
from eatnas_db.schema.events import event


class EventWatermark:
    """The id up to which all events are visible: no open transaction can still insert an event before it.

    PostgreSQL assigns an event's id before its transaction commits, so an event may become visible after events with
    larger ids. A reader that continues after the largest id it has seen would miss that event. The watermark never
    waits for the open transactions: each call of `advance` checks which of them have ended since the previous call.
    """

    def __init__(self) -> None:
        self._watermark = self._next = 0
        self._writers: frozenset[str] = frozenset()

    def advance(self, engine: Engine) -> int:
        """Return the watermark. A transaction that begins later can read every event up to the watermark."""
        with read_transaction(engine) as connection:
            newest = connection.execute(select(func.max(event.c.id))).scalar() or 0
            # Read the writers after the ids, so that the writer of each id either is listed here or has ended.
            writers = (
                frozenset(connection.execute(_EVENT_WRITERS).scalars()) if is_postgresql(connection) else frozenset()
            )
        if not writers & self._writers:
            self._watermark, self._next, self._writers = self._next, newest, writers
        if not writers:
            self._watermark = newest
        return self._watermark


_EVENT_WRITERS: Final = text(
    "SELECT virtualtransaction FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'relation' AND relation = to_regclass(:name) AND mode = 'RowExclusiveLock' AND granted "
    "AND datname = current_database()"
).bindparams(name=event.name)
