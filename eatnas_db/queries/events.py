"""Query the events of a record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from eatnas_db.queries.event_messages import describe_event
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event at the Unix time `at`; `words` is its description and `detail` the stored data."""

    id: int
    at: float
    kind: str
    search: str | None
    candidate_id: int | None
    birth: int | None
    attempt: int | None
    words: str
    detail: dict[str, Any] | None


def list_events(
    connection: Connection,
    search_id: int | None = None,
    *,
    candidate_id: int | None = None,
    kind: str | None = None,
    after: int = 0,
    until: int | None = None,
    limit: int = 50,
    offset: int = 0,
) -> tuple[RecordedEvent, ...]:
    """Return the newest `limit` events, the newest last, after skipping the newest `offset` events.

    Only events of the search, the candidate and the kind are returned, with ids above `after` and up to `until`. A
    reader that follows events must set `until` to an `EventWatermark`, because an event with a smaller id may become
    visible later.
    """
    query = (
        select(
            event,
            search.c.name.label("search"),
            candidate.c.birth,
            candidate.c.origin,
            candidate.c.parent_id,
            candidate.c.fitness,
        )
        .outerjoin(search, search.c.id == event.c.search_id)
        .outerjoin(candidate, candidate.c.id == event.c.candidate_id)
        .where(event.c.id > after)
        .order_by(event.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    if search_id is not None:
        query = query.where(event.c.search_id == search_id)
    if candidate_id is not None:
        query = query.where(event.c.candidate_id == candidate_id)
    if kind is not None:
        query = query.where(event.c.kind == kind)
    if until is not None:
        query = query.where(event.c.id <= until)
    return tuple(_to_event(row) for row in reversed(connection.execute(query).mappings().all()))


def _to_event(row: RowMapping) -> RecordedEvent:
    detail = None if row["detail"] is None else json.loads(row["detail"])
    return RecordedEvent(
        id=row["id"],
        at=row["at"],
        kind=row["kind"],
        search=row["search"],
        candidate_id=row["candidate_id"],
        birth=row["birth"],
        attempt=row["attempt"],
        words=describe_event(
            row["kind"],
            attempt=row["attempt"],
            origin=row["origin"],
            parent_id=row["parent_id"],
            fitness=row["fitness"],
            detail=detail or {},
        ),
        detail=detail,
    )


def get_event_time(connection: Connection, event_id: int) -> float | None:
    """Return the time of an event in seconds since 1970, or None if the record does not hold the event."""
    return connection.execute(select(event.c.at).where(event.c.id == event_id)).scalar()


def get_newest_event_before(connection: Connection, at: float) -> int:
    """Return the largest id of the events before a time in seconds since 1970; 0 if there are none."""
    return connection.execute(select(func.max(event.c.id)).where(event.c.at < at)).scalar() or 0
