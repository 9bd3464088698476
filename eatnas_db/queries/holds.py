"""Query the searches that hosts have set aside."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, ScalarSelect, exists, select

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.holds import hold
from eatnas_db.schema.hosts import host
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import lease


@dataclass(frozen=True, slots=True)
class RecordedHold:
    """A search that a host has set aside since `since_at`; the host tries again at `retry_at`. Times are Unix times.

    `cause` is `data` if the host cannot read the search's images, and `error` if the search itself fails.
    """

    search: str
    host: str
    cause: str
    reason: str
    since_at: float
    retry_at: float
    tries: int


def list_holds(connection: Connection, search_id: int | None = None) -> tuple[RecordedHold, ...]:
    """Return the unfinished searches that hosts have set aside, or the hosts that have set one search aside."""
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


def hold_reason() -> ScalarSelect[str | None]:
    """Return the reason of a search's first hold, or null if another host trains the search."""
    own = hold.alias()
    holders = select(own.c.host_id).where(own.c.search_id == search.c.id).correlate(search)
    trains_elsewhere = exists().where(
        lease.c.candidate_id == candidate.c.id,
        candidate.c.search_id == search.c.id,
        lease.c.host_id.not_in(holders),
    )
    query = select(hold.c.reason).where(hold.c.search_id == search.c.id, ~trains_elsewhere)
    return query.order_by(hold.c.since).limit(1).correlate(search).scalar_subquery()
