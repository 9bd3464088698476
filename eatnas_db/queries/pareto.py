"""The best accuracy for each cost: candidates that no other beats at both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Select, func, select

from eatnas_db.schema import candidate, score

Cost = Literal["mult_adds", "params"]
ACCURACY: Final = "val_accuracy"
_accuracy: Final = score.c.value.label("accuracy")


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


def list_front(connection: Connection, search_id: int, cost: Cost = "mult_adds") -> tuple[Tradeoff, ...]:
    """The front, the cheapest first: each is more accurate than all that cost as much or less."""
    # Ranked by their figures alone: a sort that carries every column takes several times as long.
    figures = _accurate(search_id, candidate.c.id, candidate.c[cost].label("price"), _accuracy).subquery()
    cheaper = func.max(figures.c.accuracy).over(
        order_by=(figures.c.price, figures.c.accuracy.desc(), figures.c.id), rows=(None, -1)
    )
    ranked = select(figures, cheaper.label("cheaper")).subquery()
    front = select(ranked.c.id).where((ranked.c.accuracy > ranked.c.cheaper) | ranked.c.cheaper.is_(None))
    ids = connection.execute(front).scalars().all()
    rows = connection.execute(_scored(search_id).where(candidate.c.id.in_(ids)).order_by(candidate.c[cost]))
    return tuple(Tradeoff(*row) for row in rows)


def list_tradeoffs(connection: Connection, search_id: int, most: int = 5000) -> tuple[Tradeoff, ...]:
    """What was scored, evenly over the births if there are more than `most`."""
    born = connection.execute(
        select(func.count()).select_from(candidate).where(candidate.c.search_id == search_id)
    ).scalar_one()
    every = max(1, -(-born // most))
    query = _scored(search_id).where(candidate.c.birth % every == 0).order_by(candidate.c.birth)
    return tuple(Tradeoff(*row) for row in connection.execute(query))


def _scored(search_id: int) -> Select[Any]:
    columns = {**dict(candidate.c), "accuracy": _accuracy}
    return _accurate(search_id, *(columns[name] for name in Tradeoff.__dataclass_fields__))


def _accurate(search_id: int, *columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .join(score, score.c.candidate_id == candidate.c.id)
        .where(candidate.c.search_id == search_id, candidate.c.fitness.is_not(None), score.c.metric == ACCURACY)
    )
