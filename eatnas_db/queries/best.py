"""The best candidates of a search, by its own scores and by the yardstick's."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Select, select

from eatnas_db.domain.states import Kind, Origin
from eatnas_db.schema import candidate, search


@dataclass(frozen=True, slots=True)
class BestCandidate:
    """A scored candidate in the ranking.

    `yardstick`: the mean fitness of its trainings from scratch with fresh seeds, so many of them, and their
    standard deviation (None for fewer than two). `share_inherited` and `lineage_epochs` as in the table of candidates.
    """

    id: int
    birth: int
    fitness: float
    params: int
    mult_adds: int
    origin: str
    parent_birth: int | None
    code: str
    share_inherited: float | None = None
    lineage_epochs: int | None = None
    yardstick: float | None = None
    yardstick_spread: float | None = None
    yardstick_seeds: int = 0


def list_best(connection: Connection, search_id: int, top: int = 10) -> tuple[BestCandidate, ...]:
    """The fittest first; of equals the elder. Those that a yardstick has measured come first, by its measure."""
    scored = _candidates().where(candidate.c.search_id == search_id, candidate.c.fitness.is_not(None))
    fittest = scored.order_by(candidate.c.fitness.desc(), candidate.c.birth).limit(top)
    return _ranked(_measured(connection, fittest))


def get_winner(connection: Connection, search_id: int) -> BestCandidate | None:
    """The best by the yardstick; without one, the fittest of those who live at the end."""
    measures = (
        select(candidate.c.parent_id)
        .join(search, search.c.id == candidate.c.search_id)
        .where(search.c.source_id == search_id, search.c.kind == Kind.YARDSTICK, candidate.c.fitness.is_not(None))
    )
    measured = _measured(connection, _candidates().where(candidate.c.id.in_(measures)))
    if measured:
        return max(measured, key=lambda one: (one.yardstick or 0.0, -one.birth))
    fittest = _living(search_id).order_by(candidate.c.fitness.desc(), candidate.c.birth).limit(1)
    return next(iter(_measured(connection, fittest)), None)


def list_living(connection: Connection, search_id: int) -> tuple[BestCandidate, ...]:
    """The population as it stands, ranked: those that a yardstick has measured first, then by fitness and birth."""
    living = _living(search_id).order_by(candidate.c.fitness.desc(), candidate.c.birth)
    return _ranked(_measured(connection, living))


def _living(search_id: int) -> Select[Any]:
    return _candidates().where(
        candidate.c.search_id == search_id, candidate.c.joined.is_not(None), candidate.c.left.is_(None)
    )


def _ranked(found: list[BestCandidate]) -> tuple[BestCandidate, ...]:
    return tuple(sorted(found, key=lambda one: (one.yardstick is None, -(one.yardstick or 0))))


def _candidates() -> Select[Any]:
    parent = candidate.alias("parent")
    return select(
        candidate.c.id,
        candidate.c.birth,
        candidate.c.fitness,
        candidate.c.params,
        candidate.c.mult_adds,
        candidate.c.origin,
        parent.c.birth.label("parent_birth"),
        candidate.c.code,
        candidate.c.share_inherited,
        candidate.c.lineage_epochs,
    ).outerjoin(parent, parent.c.id == candidate.c.parent_id)


def _measured(connection: Connection, query: Select[Any]) -> list[BestCandidate]:
    found = [BestCandidate(*row) for row in connection.execute(query)]
    # By a subquery: a database takes only so many numbers in one statement.
    yardsticks = _yardsticks(connection, select(query.subquery().c.id))
    return [_with_yardstick(one, yardsticks[one.id]) for one in found]


def _yardsticks(connection: Connection, ids: Select[Any]) -> defaultdict[int, list[float]]:
    query = select(candidate.c.parent_id, candidate.c.fitness).where(
        candidate.c.parent_id.in_(ids), candidate.c.origin == Origin.YARDSTICK, candidate.c.fitness.is_not(None)
    )
    measured: defaultdict[int, list[float]] = defaultdict(list)
    for parent_id, fitness in connection.execute(query.order_by(candidate.c.id)):
        measured[parent_id].append(fitness)
    return measured


def _with_yardstick(one: BestCandidate, values: list[float]) -> BestCandidate:
    if not values:
        return one
    spread = statistics.stdev(values) if len(values) > 1 else None
    return replace(one, yardstick=statistics.fmean(values), yardstick_spread=spread, yardstick_seeds=len(values))
