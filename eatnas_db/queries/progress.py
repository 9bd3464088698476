"""How far a search is: its counters and small index reads, so that asking every second costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from eatnas_db.leases import count_leased
from eatnas_db.schema.candidates import PENDING, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt


@dataclass(frozen=True, slots=True)
class SearchCounters:
    """Where a search is; `failed` counts the cancelled too, `done` is scored and failed together."""

    budget: int
    born: int
    settled: int
    done: int
    scored: int
    failed: int
    pending: int
    leased: int
    best: float | None
    device_seconds: float
    budget_device_seconds: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None


def get_progress(connection: Connection, search_id: int) -> SearchCounters:
    """The figures of one search; `started_at` is its first training."""
    row = connection.execute(select(search).where(search.c.id == search_id)).one()
    pending = _pending(connection, search_id)
    leased = count_leased(connection, search_id)
    done = row.born - pending - leased
    return SearchCounters(
        budget=row.budget_candidates,
        born=row.born,
        settled=row.settled,
        done=done,
        scored=row.scored,
        failed=done - row.scored,
        pending=pending,
        leased=leased,
        best=_best(connection, search_id),
        device_seconds=row.device_seconds,
        budget_device_seconds=row.budget_device_seconds,
        created_at=row.created_at,
        started_at=_started_at(connection, search_id),
        finished_at=row.finished_at,
    )


def _pending(connection: Connection, search_id: int) -> int:
    query = select(func.count()).select_from(candidate).where(candidate.c.search_id == search_id, PENDING)
    return int(connection.execute(query).scalar_one())


def _best(connection: Connection, search_id: int) -> float | None:
    query = (
        select(candidate.c.fitness)
        .where(candidate.c.search_id == search_id, candidate.c.fitness.is_not(None))
        .order_by(candidate.c.fitness.desc(), candidate.c.birth)
        .limit(1)
    )
    best: Any = connection.execute(query).scalar()
    return None if best is None else float(best)


def _started_at(connection: Connection, search_id: int) -> float | None:
    query = (
        select(attempt.c.started_at)
        .join(candidate, candidate.c.id == attempt.c.candidate_id)
        .where(candidate.c.search_id == search_id, attempt.c.number == 1)
        .order_by(candidate.c.birth)
        .limit(1)
    )
    started: Any = connection.execute(query).scalar()
    return None if started is None else float(started)
