"""Query the Pareto front and the trade-off between the metric of a search and the cost of networks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from sqlalchemy import Connection, bindparam, func, select

from eatnas_db.domain.objective import Direction
from eatnas_db.schema.candidates import candidate

CostMetric = Literal["mult_adds", "params"]


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """The metric of a candidate (the accuracy, or the metric that its search optimizes) and the cost of its network."""

    id: int
    birth: int
    accuracy: float
    fitness: float
    params: int
    mult_adds: int
    origin: str
    code: str


_COLUMNS = tuple(candidate.c[field.name] for field in fields(Tradeoff))


def list_front(
    connection: Connection,
    search_id: int,
    cost: CostMetric = "mult_adds",
    direction: Direction = Direction.MAXIMIZE,
) -> tuple[Tradeoff, ...]:
    """Return the candidates of the Pareto front, the cheapest first. Each of these candidates is better than all other
    candidates that cost no more.

    `direction` is the direction of the metric that the search optimizes.
    """
    cost_column, accuracy = candidate.c[cost], candidate.c.accuracy
    maximizes = direction is Direction.MAXIMIZE
    best_first = accuracy.desc() if maximizes else accuracy.asc()
    better = accuracy > bindparam("accuracy") if maximizes else accuracy < bindparam("accuracy")
    cheapest = (
        select(*_COLUMNS)
        .where(candidate.c.search_id == search_id, candidate.c.accuracy.is_not(None))
        .order_by(cost_column, best_first, candidate.c.birth)
        .limit(1)
    )
    # Each statement continues along the index where the previous statement stopped, so all statements together read the
    # index once.
    following = cheapest.where(cost_column > bindparam("cost"), better)
    front: list[Tradeoff] = []
    row = connection.execute(cheapest).first()
    while row is not None:
        front.append(Tradeoff(*row))
        parameters = {"cost": getattr(front[-1], cost), "accuracy": front[-1].accuracy}
        row = connection.execute(following, parameters).first()
    return tuple(front)


def list_tradeoffs(connection: Connection, search_id: int, max_points: int = 5000) -> tuple[Tradeoff, ...]:
    """Return the scored candidates of a search, or of an evenly spaced sample of at most `max_points` births."""
    born = connection.execute(
        select(func.count()).select_from(candidate).where(candidate.c.search_id == search_id)
    ).scalar_one()
    interval = max(1, -(-born // max_points))
    query = (
        select(*_COLUMNS)
        .where(candidate.c.search_id == search_id, candidate.c.accuracy.is_not(None))
        .where(candidate.c.birth % interval == 0)
        .order_by(candidate.c.birth)
    )
    return tuple(Tradeoff(*row) for row in connection.execute(query))
