"""Which values of which block survive: the population at several steps, grouped by what its blocks are made of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Integer, func, literal, or_, select, union_all

from eatnas_db.errors import NotFoundError
from eatnas_db.schema.candidates import block, candidate
from eatnas_db.schema.searches import search

PRIMITIVES: Final = ("op", "kernel", "skip", "depth", "width")


@dataclass(frozen=True, slots=True)
class PrimitiveShare:
    """How much of the population after a step had this value in this block, and how fit these were on average."""

    step: int
    block: int
    primitive: str
    value: str
    members: int
    share: float
    mean_fitness: float


def list_primitives(
    connection: Connection, search_id: int, block: int | None = None, points: int = 5
) -> tuple[PrimitiveShare, ...]:
    """Every value that lived at one of so many steps, evenly spaced up to now. Raises `NotFoundError`."""
    settled = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
    steps = sorted({settled * number // points for number in range(1, points + 1)} - {0})
    groups = _groups(connection, search_id, steps, block) if steps else []
    if block is not None and steps and not groups:
        raise NotFoundError(f"no member of the population has a block {block}; without --block all are told, from 1 on")
    members: defaultdict[tuple[int, int, str, Any], int] = defaultdict(int)
    fitness: defaultdict[tuple[int, int, str, Any], float] = defaultdict(float)
    whole: defaultdict[tuple[int, int], int] = defaultdict(int)
    for row in groups:
        whole[row.step, row.position] += row.members
        for primitive in PRIMITIVES:
            key = (row.step, row.position, primitive, getattr(row, primitive))
            members[key] += row.members
            fitness[key] += row.fitness
    return tuple(
        PrimitiveShare(
            step, position, primitive, _as_text(value), count, count / whole[step, position], fitness[key] / count
        )
        for key, count in sorted(members.items(), key=lambda one: _order(*one[0]))
        for step, position, primitive, value in [key]
    )


def _order(step: int, position: int, primitive: str, value: Any) -> tuple[Any, ...]:
    return position, PRIMITIVES.index(primitive), value, step


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _groups(connection: Connection, search_id: int, steps: list[int], position: int | None) -> list[Any]:
    point = union_all(*(select(literal(step, Integer).label("step")) for step in steps)).subquery("point")
    living = (
        select(point.c.step, candidate.c.architecture_id, candidate.c.fitness)
        .select_from(candidate)
        .join(
            point,
            (candidate.c.joined <= point.c.step) & or_(candidate.c.left.is_(None), candidate.c.left > point.c.step),
        )
        .where(candidate.c.search_id == search_id)
        .subquery()
    )
    kinds = [block.c[name] for name in ("position", *PRIMITIVES)]
    query = (
        select(living.c.step, *kinds, func.count().label("members"), func.sum(living.c.fitness).label("fitness"))
        .join(block, block.c.architecture_id == living.c.architecture_id)
        .group_by(living.c.step, *kinds)
    )
    if position is not None:
        query = query.where(block.c.position == position)
    return list(connection.execute(query))
