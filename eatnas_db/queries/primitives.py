"""Query the share of each primitive's values in the population, at several steps of a search."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, Integer, func, literal, or_, select, union_all

from eatnas_db.errors import NotFoundError
from eatnas_db.schema.candidates import block, candidate
from eatnas_db.schema.searches import search

PRIMITIVES: Final = ("op", "kernel", "skip", "depth", "width")


@dataclass(frozen=True, slots=True)
class PrimitiveShare:
    """The members of the population after a step that have this value in this block, and their mean fitness."""

    step: int
    block: int
    primitive: str
    value: str
    members: int
    share: float
    mean_fitness: float


class _BlockGroup(NamedTuple):
    """The members of the population after a step that have an equal block at a position."""

    step: int
    position: int
    op: str
    kernel: int
    skip: bool
    depth: int
    width: float
    members: int
    fitness: float
    """Sum over the members."""


class _Key(NamedTuple):
    step: int
    position: int
    primitive: str
    value: str | int | bool | float


def list_primitives(
    connection: Connection, search_id: int, block: int | None = None, points: int = 5
) -> tuple[PrimitiveShare, ...]:
    """Return the shares at `points` evenly spaced steps, the last of which is the present one.

    They are sorted by block, primitive, value and step. Raises `NotFoundError` if no member has this block.
    """
    settled = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
    steps = sorted({settled * number // points for number in range(1, points + 1)} - {0})
    groups = _group_blocks(connection, search_id, steps, block) if steps else []
    if block is not None and steps and not groups:
        raise NotFoundError(f"no member of the population has a block {block}; omit --block to see all blocks")
    members: defaultdict[_Key, int] = defaultdict(int)
    fitness: defaultdict[_Key, float] = defaultdict(float)
    size: defaultdict[tuple[int, int], int] = defaultdict(int)
    for group in groups:
        size[group.step, group.position] += group.members
        for primitive in PRIMITIVES:
            key = _Key(group.step, group.position, primitive, getattr(group, primitive))
            members[key] += group.members
            fitness[key] += group.fitness
    return tuple(
        PrimitiveShare(
            step=key.step,
            block=key.position,
            primitive=key.primitive,
            value=_format_value(key.value),
            members=members[key],
            share=members[key] / size[key.step, key.position],
            mean_fitness=fitness[key] / members[key],
        )
        for key in sorted(members, key=_sort_key)
    )


def _sort_key(key: _Key) -> tuple[int, int, str | int | bool | float, int]:
    return key.position, PRIMITIVES.index(key.primitive), key.value, key.step


def _format_value(value: str | int | bool | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _group_blocks(connection: Connection, search_id: int, steps: list[int], position: int | None) -> list[_BlockGroup]:
    point = union_all(*(select(literal(step, Integer).label("step")) for step in steps)).subquery("point")
    members = (
        select(point.c.step, candidate.c.architecture_id, candidate.c.fitness)
        .select_from(candidate)
        .join(
            point,
            (candidate.c.joined <= point.c.step) & or_(candidate.c.left.is_(None), candidate.c.left > point.c.step),
        )
        .where(candidate.c.search_id == search_id)
        .subquery()
    )
    group = (members.c.step, block.c.position, *(block.c[primitive] for primitive in PRIMITIVES))
    query = (
        select(*group, func.count().label("members"), func.sum(members.c.fitness).label("fitness"))
        .join(block, block.c.architecture_id == members.c.architecture_id)
        .group_by(*group)
    )
    if position is not None:
        query = query.where(block.c.position == position)
    return [_BlockGroup._make(row) for row in connection.execute(query)]
