"""Query the rungs of a search and of a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from eatnas_db.domain.rungs import rungs_of
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.trainings import rung


@dataclass(frozen=True, slots=True)
class RungCount:
    """The numbers of candidates that reached a rung and that continued after it, and the best score at the rung."""

    rung: int
    epochs: int
    reached: int
    continued: int
    best: float | None


@dataclass(frozen=True, slots=True)
class CandidateRung:
    """The score of a candidate at a rung, and whether the candidate continued (None: not decided yet).

    `began_from` is `checkpoint` if the training to this rung resumed the training to the previous rung, else `scratch`.
    """

    rung: int
    epochs: int
    attempt: int
    began_from: str
    fitness: float
    promoted: bool | None
    ended_at: float


def count_rungs(connection: Connection, search_id: int, spec: Mapping[str, Any]) -> tuple[RungCount, ...]:
    """Return the counts of each rung of a search, or an empty tuple if the search has no rungs."""
    rungs = rungs_of(spec)
    if rungs is None:
        return ()
    query = (
        select(
            rung.c.number,
            func.count(),
            func.sum(case((rung.c.promoted.is_(True), 1), else_=0)),
            func.max(rung.c.fitness),
        )
        .join(candidate, candidate.c.id == rung.c.candidate_id)
        .where(candidate.c.search_id == search_id)
        .group_by(rung.c.number)
    )
    counts = {number: (reached, continued, best) for number, reached, continued, best in connection.execute(query)}
    rows = [(number, epochs, *counts.get(number, (0, 0, None))) for number, epochs in enumerate(rungs.epochs)]
    return tuple(RungCount(*row) for row in rows)


def describe_rungs(counts: tuple[RungCount, ...]) -> str:
    """Describe the counts in one line."""
    parts = []
    for row in counts:
        part = f"{row.epochs} epoch{'' if row.epochs == 1 else 's'}: {row.reached} reached"
        parts.append(part if row is counts[-1] else f"{part}, {row.continued} continued")
    return "; ".join(parts)


def list_candidate_rungs(connection: Connection, candidate_id: int) -> tuple[CandidateRung, ...]:
    """Return the rungs that a candidate has reached."""
    query = select(
        rung.c.number, rung.c.epochs, rung.c.attempt, rung.c.fitness, rung.c.promoted, rung.c.ended_at
    ).where(rung.c.candidate_id == candidate_id)
    rows = connection.execute(query.order_by(rung.c.number)).all()
    if not rows:
        return ()
    resumed = select(event.c.attempt).where(event.c.candidate_id == candidate_id, event.c.kind == "resumed")
    resuming = set(connection.execute(resumed).scalars())
    first_attempts = [1, *(row.attempt + 1 for row in rows)]
    return tuple(
        CandidateRung(
            rung=row.number,
            epochs=row.epochs,
            attempt=row.attempt,
            began_from="checkpoint" if first in resuming else "scratch",
            fitness=row.fitness,
            promoted=row.promoted,
            ended_at=row.ended_at,
        )
        for row, first in zip(rows, first_attempts, strict=False)
    )
