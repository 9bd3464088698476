"""Query the share of the population that has each value of a primitive, at several steps of a search."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, Integer, Subquery, func, literal, or_, select, union_all

from eatnas_db.errors import NotFoundError
from eatnas_db.schema.candidates import architecture, block, candidate
from eatnas_db.schema.searches import search

PRIMITIVES: Final = ("op", "kernel", "skip", "depth", "width")


@dataclass(frozen=True, slots=True)
class PrimitiveShare:
    """The share and the mean fitness of the members that have a value in a block, in the population after a step."""

    step: int
    block: int
    primitive: str
    value: str
    members: int
    share: float
    mean_fitness: float


_Value = str | int | bool | float


class _BlockGroup(NamedTuple):
    """The members with the same block at a position, in the population after a step."""

    step: int
    position: int
    values: dict[str, _Value]
    members: int
    fitness: float
    """The sum of the fitness values of the members."""


class _Key(NamedTuple):
    step: int
    position: int
    primitive: str
    value: _Value


def list_primitives(
    connection: Connection, search_id: int, block: int | None = None, points: int = 5
) -> tuple[PrimitiveShare, ...]:
    """Return the shares at `points` evenly spaced steps, the last of which is the latest step.

    The rows are sorted by block, primitive, value and step. Raises `NotFoundError` if no member has this block.
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
        for primitive, value in group.values.items():
            key = _Key(group.step, group.position, primitive, value)
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


def _sort_key(key: _Key) -> tuple[int, int, str, _Value, int]:
    place = PRIMITIVES.index(key.primitive) if key.primitive in PRIMITIVES else len(PRIMITIVES)
    return key.position, place, key.primitive, key.value, key.step


def _format_value(value: _Value) -> str:
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
    is_macro = (
        "stem_channels" in connection.execute(select(search.c.macro).where(search.c.id == search_id)).scalar_one()
    )
    if not is_macro:
        return _group_choices(connection, members, position)
    query = (
        select(*group, func.count().label("members"), func.sum(members.c.fitness).label("fitness"))
        .join(block, block.c.architecture_id == members.c.architecture_id)
        .group_by(*group)
    )
    if position is not None:
        query = query.where(block.c.position == position)
    return [
        _BlockGroup(step, place, dict(zip(PRIMITIVES, values, strict=True)), count, fitness)
        for step, place, *values, count, fitness in connection.execute(query)
    ]


def _group_choices(connection: Connection, members: Subquery, position: int | None) -> list[_BlockGroup]:
    """Return the groups by parsing genotypes, for a space whose blocks have no rows in the table `block`."""
    group = (members.c.step, architecture.c.genotype)
    query = (
        select(*group, func.count(), func.sum(members.c.fitness))
        .join(architecture, architecture.c.id == members.c.architecture_id)
        .group_by(*group)
    )
    return [
        _BlockGroup(step, place, dict(choice.split("=", 1) for choice in text.split(",")), count, total)
        for step, genotype, count, total in connection.execute(query)
        for place, text in enumerate(genotype.split("/"), 1)
        if position in (None, place)
    ]
