"""How a search's population went, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from sqlalchemy import Connection, func, select

from eatnas_db.schema import attempt, candidate, step


@dataclass(frozen=True, slots=True)
class Step:
    """The population after `number` settled births, in a few figures.

    `device_seconds`: what the devices had spent on these births, failed and repeated attempts included.
    """

    number: int
    size: int
    mean: float | None
    spread: float | None
    best: float | None
    quality: float | None
    device_seconds: float
    at: float


def list_steps(connection: Connection, search_id: int, after: int = 0) -> tuple[Step, ...]:
    """The steps after number `after`, in order."""
    # Summed by birth and not by the clock: so the curve is the same on one slot and on eight.
    seconds = (
        select(func.coalesce(func.sum(attempt.c.device_seconds), 0.0))
        .select_from(candidate)
        .outerjoin(attempt, attempt.c.candidate_id == candidate.c.id)
        .where(candidate.c.search_id == search_id)
        .group_by(candidate.c.birth)
        .order_by(candidate.c.birth)
    )
    spent = list(accumulate(connection.execute(seconds).scalars()))
    query = (
        select(*(step.c[name] for name in ("number", "size", "mean", "spread", "best", "quality", "at")))
        .where(step.c.search_id == search_id, step.c.number > after)
        .order_by(step.c.number)
    )
    return tuple(
        Step(number, size, mean, spread, best, quality, spent[number - 1], at)
        for number, size, mean, spread, best, quality, at in connection.execute(query)
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """A step without what it cost, which takes longer to sum up than all the rest."""

    number: int
    mean: float | None
    best: float | None
    at: float


def list_moments(connection: Connection, search_id: int, after: int = 0, every: int = 1) -> tuple[Moment, ...]:
    """The steps after number `after`, or of these each that `every` divides, in order."""
    query = (
        select(*(step.c[name] for name in Moment.__dataclass_fields__))
        .where(step.c.search_id == search_id, step.c.number > after, step.c.number % every == 0)
        .order_by(step.c.number)
    )
    return tuple(Moment(*row) for row in connection.execute(query))
