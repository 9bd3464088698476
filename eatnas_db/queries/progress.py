"""Query the progress of a search.

The queries read only counters and small index ranges, so they suit frequent polling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, TextClause, bindparam, func, select

from eatnas_db.domain.rungs import rungs_of
from eatnas_db.schema.candidates import FITTEST_FIRST, PENDING, WAITING, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, lease


@dataclass(frozen=True, slots=True)
class SearchCounters:
    """The numbers of candidates of a search by state, and the times of the search. Times are Unix times in seconds.

    `pending` includes candidates that wait for a decision at a rung, and `failed` includes cancelled candidates. `done`
    is the sum of `scored` and `failed`. `started_at` is the start of the first training.
    """

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
    """Return the counters of one search."""
    row = connection.execute(select(search).where(search.c.id == search_id)).one()
    pending = _count(connection, search_id, PENDING)
    if rungs_of(row.spec) is not None:
        pending += _count(connection, search_id, WAITING)
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
        best=_best_fitness(connection, search_id),
        device_seconds=row.device_seconds,
        budget_device_seconds=row.budget_device_seconds,
        created_at=row.created_at,
        started_at=_first_start(connection, search_id),
        finished_at=row.finished_at,
    )


_COUNT_LEASES: Final = (
    select(func.count()).select_from(lease).join(candidate).where(candidate.c.search_id == bindparam("search_id"))
)


def count_leased(connection: Connection, search_id: int) -> int:
    """Count the candidates of a search that are in training on any host; the query is fast, as few leases exist."""
    return int(connection.execute(_COUNT_LEASES, {"search_id": search_id}).scalar_one())


def _count(connection: Connection, search_id: int, state: TextClause) -> int:
    query = select(func.count()).select_from(candidate).where(candidate.c.search_id == search_id, state)
    return int(connection.execute(query).scalar_one())


def _best_fitness(connection: Connection, search_id: int) -> float | None:
    query = (
        select(candidate.c.fitness)
        .where(candidate.c.search_id == search_id, candidate.c.fitness.is_not(None))
        .order_by(*FITTEST_FIRST)
        .limit(1)
    )
    return connection.execute(query).scalar()


def _first_start(connection: Connection, search_id: int) -> float | None:
    query = (
        select(attempt.c.started_at)
        .join(candidate, candidate.c.id == attempt.c.candidate_id)
        .where(candidate.c.search_id == search_id, attempt.c.number == 1)
        .order_by(candidate.c.birth)
        .limit(1)
    )
    return connection.execute(query).scalar()
