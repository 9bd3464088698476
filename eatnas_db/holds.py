"""Set a search aside on a host that cannot work on it, and let the host try again later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from eatnas_db.domain.states import HoldCause
from eatnas_db.events import record_event
from eatnas_db.schema.holds import hold
from eatnas_db.schema.hosts import host
from eatnas_db.schema.searches import search
from eatnas_db.text_encoding import to_storable

RETRY_SECONDS: Final = 1.0
"""The delay before the first retry, in seconds. The delay doubles with each further retry."""
MAX_RETRY_SECONDS: Final = 60.0
MAX_REASON_LENGTH: Final = 1000


@dataclass(frozen=True, slots=True)
class SearchHold:
    """A search that a host has set aside since `since`; the host tries again at `retry_at`. `since` and `retry_at` are
    Unix times.
    """

    search_id: int
    cause: HoldCause
    reason: str
    since: float
    retry_at: float
    tries: int

    def is_due(self, now: float) -> bool:
        """Return whether the host should try again."""
        # If `retry_at` is further ahead than any delay, the clock was set back after `retry_at` was written.
        return not now < self.retry_at <= now + MAX_RETRY_SECONDS


def list_holds_of_host(connection: Connection, host_id: int) -> dict[int, SearchHold]:
    """Return the searches that a host has set aside, by id."""
    columns = (hold.c.search_id, hold.c.cause, hold.c.reason, hold.c.since, hold.c.retry_at, hold.c.tries)
    rows = connection.execute(select(*columns).where(hold.c.host_id == host_id))
    return {
        row.search_id: SearchHold(
            search_id=row.search_id,
            cause=HoldCause(row.cause),
            reason=row.reason,
            since=row.since,
            retry_at=row.retry_at,
            tries=row.tries,
        )
        for row in rows
    }


def place_hold(
    connection: Connection,
    host_id: int,
    search_id: int,
    *,
    cause: HoldCause,
    reason: str,
    now: float,
    earlier_tries: int = 0,
) -> SearchHold | None:
    """Set a search aside on a host, or postpone the next try if the search is already set aside. Return the hold.

    Return None if the search no longer exists.

    The delay depends on `earlier_tries`, the number of tries so far. An event is recorded if the reason differs from
    the reason for the previous try.
    """
    reason = " ".join(to_storable(reason).split())[:MAX_REASON_LENGTH]
    this = (hold.c.search_id == search_id, hold.c.host_id == host_id)
    before = connection.execute(select(hold.c.reason, hold.c.since, hold.c.tries).where(*this)).first()
    tries = max(earlier_tries, 0 if before is None else before.tries) + 1
    delay = min(RETRY_SECONDS * 2.0 ** min(tries - 1, 30), MAX_RETRY_SECONDS)
    placed = SearchHold(search_id, cause, reason, now, now + delay, tries)
    if before is None:
        if connection.execute(select(search.c.id).where(search.c.id == search_id)).first() is None:
            return None
        values = {"cause": cause, "reason": reason, "since": now, "retry_at": placed.retry_at, "tries": tries}
        connection.execute(insert(hold).values(search_id=search_id, host_id=host_id, **values))
    else:
        placed = replace(placed, since=before.since)
        values = {"cause": cause, "reason": reason, "retry_at": placed.retry_at, "tries": tries}
        connection.execute(update(hold).where(*this).values(values))
    if before is None or before.reason != reason:
        _record_event(connection, host_id, search_id, "held", reason, now)
    return placed


def lift_hold(connection: Connection, host_id: int, search_id: int, now: float) -> None:
    """Let a host work on a search again."""
    this = (hold.c.search_id == search_id, hold.c.host_id == host_id)
    reason = connection.execute(delete(hold).where(*this).returning(hold.c.reason)).scalar()
    if reason is not None:
        _record_event(connection, host_id, search_id, "hold_lifted", reason, now)


def remove_holds_of_search(connection: Connection, search_id: int) -> None:
    """Remove the holds of a search, so that every host tries again immediately."""
    connection.execute(delete(hold).where(hold.c.search_id == search_id))


def remove_holds_of_other_sessions(connection: Connection, connected_hosts: frozenset[int]) -> None:
    """Remove the holds of hosts whose daemon is not connected."""
    connection.execute(delete(hold).where(hold.c.host_id.not_in(connected_hosts)))


def _record_event(connection: Connection, host_id: int, search_id: int, kind: str, reason: str, now: float) -> None:
    name = connection.execute(select(host.c.name).where(host.c.id == host_id)).scalar()
    record_event(connection, now, kind, search_id=search_id, detail={"host": name, "reason": reason})
