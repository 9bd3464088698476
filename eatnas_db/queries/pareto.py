"""The best accuracy for each cost: candidates that no other beats at both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, bindparam, func, select

from eatnas_db.schema.candidates import candidate

CostMetric = Literal["mult_adds", "params"]


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """A candidate's accuracy on validation, and what its network costs."""

    id: int
    birth: int
    accuracy: float
    fitness: float
    params: int
    mult_adds: int
    origin: str
    code: str


_COLUMNS = tuple(candidate.c[name] for name in Tradeoff.__dataclass_fields__)


def list_front(connection: Connection, search_id: int, cost: CostMetric = "mult_adds") -> tuple[Tradeoff, ...]:
    """The front, the cheapest first: each is more accurate than all that cost as much or less."""
    price = candidate.c[cost]
    cheapest = (
        select(*_COLUMNS)
        .where(candidate.c.search_id == search_id, candidate.c.accuracy.is_not(None))
        .order_by(price, candidate.c.accuracy.desc(), candidate.c.birth)
        .limit(1)
    )
    # Each goes on along the index where the one before stopped: all of them together read it once.
    further = cheapest.where(price > bindparam("price"), candidate.c.accuracy > bindparam("least"))
    front: list[Tradeoff] = []
    row = connection.execute(cheapest).first()
    while row is not None:
        front.append(Tradeoff(*row))
        beaten = {"price": getattr(front[-1], cost), "least": front[-1].accuracy}
        row = connection.execute(further, beaten).first()
    return tuple(front)


def list_tradeoffs(connection: Connection, search_id: int, most: int = 5000) -> tuple[Tradeoff, ...]:
    """What was scored, evenly over the births if there are more than `most`."""
    born = connection.execute(
        select(func.count()).select_from(candidate).where(candidate.c.search_id == search_id)
    ).scalar_one()
    every = max(1, -(-born // most))
    query = (
        select(*_COLUMNS)
        .where(candidate.c.search_id == search_id, candidate.c.accuracy.is_not(None))
        .where(candidate.c.birth % every == 0)
        .order_by(candidate.c.birth)
    )
    return tuple(Tradeoff(*row) for row in connection.execute(query))
