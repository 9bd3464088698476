"""Query the searches that hosts have set aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, ScalarSelect, bindparam, select

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.holds import hold
from eatnas_db.schema.hosts import host
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import lease


@dataclass(frozen=True, slots=True)
class RecordedHold:
    """A search that a host has set aside since `since_at`; the host tries again at `retry_at`. Times are Unix times.

    `cause` is a `HoldCause`, for example `data` if the host cannot read the search's images.
    """

    search: str
    host: str
    cause: str
    reason: str
    since_at: float
    retry_at: float
    tries: int


def list_holds(connection: Connection, search_id: int | None = None) -> tuple[RecordedHold, ...]:
    """Return the holds of all unfinished searches, or of one search."""
    query = (
        select(
            search.c.name,
            host.c.name,
            hold.c.cause,
            hold.c.reason,
            hold.c.since,
            hold.c.retry_at,
            hold.c.tries,
        )
        .join(search, search.c.id == hold.c.search_id)
        .join(host, host.c.id == hold.c.host_id)
        .where(search.c.finished_at.is_(None))
        .order_by(search.c.id, host.c.name)
    )
    if search_id is not None:
        query = query.where(search.c.id == search_id)
    return tuple(RecordedHold(*row) for row in connection.execute(query))


FIRST_REASON: Final[ScalarSelect[str | None]] = (
    select(hold.c.reason)
    .where(hold.c.search_id == search.c.id)
    .order_by(hold.c.since)
    .limit(1)
    .correlate(search)
    .scalar_subquery()
)
"""A scalar subquery for queries of `search`: the reason of the oldest hold of the search, or NULL."""

_TRAINS_ELSEWHERE: Final = (
    select(lease.c.candidate_id)
    .join(candidate, candidate.c.id == lease.c.candidate_id)
    .where(
        candidate.c.search_id == bindparam("search_id"),
        lease.c.host_id.not_in(select(hold.c.host_id).where(hold.c.search_id == bindparam("search_id"))),
    )
    .limit(1)
)


def is_trained_elsewhere(connection: Connection, search_id: int) -> bool:
    """Return whether a host is training a candidate of the search without having set the search aside."""
    return connection.execute(_TRAINS_ELSEWHERE, {"search_id": search_id}).first() is not None
