"""What happened lately."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from eatnas_db.schema import candidate, event


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    id: int
    at: float
    kind: str
    candidate_id: int | None
    birth: int | None
    attempt: int | None
    detail: dict[str, Any] | None


def list_events(
    connection: Connection, search_id: int | None = None, limit: int = 50, after: int = 0
) -> tuple[Event, ...]:
    """The last `limit` events with an id over `after`, of one search or of all; the newest last."""
    query = (
        select(event, candidate.c.birth)
        .outerjoin(candidate, candidate.c.id == event.c.candidate_id)
        .where(event.c.id > after)
        .order_by(event.c.id.desc())
        .limit(limit)
    )
    if search_id is not None:
        query = query.where(event.c.search_id == search_id)
    rows = connection.execute(query).all()
    return tuple(
        Event(
            row.id,
            row.at,
            row.kind,
            row.candidate_id,
            row.birth,
            row.attempt,
            None if row.detail is None else json.loads(row.detail),
        )
        for row in reversed(rows)
    )
