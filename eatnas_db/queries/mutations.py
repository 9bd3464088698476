"""What changed at a candidate's birth, in words; and which kinds of change paid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from sqlalchemy import Connection, Float, case, cast, func, select

from eatnas_db.domain.space import Change
from eatnas_db.domain.states import Origin
from eatnas_db.schema.candidates import candidate, mutation

_BOOLEANS: Final[dict[str, bool]] = {"True": True, "False": False}


def list_changes(connection: Connection, candidate_id: int) -> tuple[str, ...]:
    """What changed at a candidate's birth, such as `block 5 kernel 3 → 7`."""
    columns = [mutation.c[name] for name in ("block", "primitive", "before", "after")]
    query = select(*columns).where(mutation.c.candidate_id == candidate_id).order_by(mutation.c.ordinal)
    return tuple(describe_change(*row) for row in connection.execute(query))


@cache  # there are some hundreds of them in a space
def describe_change(block: int, primitive: str, before: str, after: str) -> str:
    """A row of the table of mutations, such as `block 5 kernel 3 → 7`."""
    return str(Change(block, primitive, *(_BOOLEANS.get(value, value) for value in (before, after))))


@dataclass(frozen=True, slots=True)
class MutationStatistics:
    """A kind of change from parent to child in one search, and what came of it.

    `gain` is a child's fitness less its parent's; `improved` the share of the scored children that gained,
    `joined` the share of all children that came into the population.
    """

    primitive: str
    before: str
    after: str
    children: int
    scored: int
    joined: float
    improved: float | None
    mean_gain: float | None
    best_gain: float | None


def list_mutation_statistics(
    connection: Connection, search_id: int, block: int | None = None
) -> tuple[MutationStatistics, ...]:
    """Every kind of change, in one block or in all, the one that gained most on average first."""
    parent = candidate.alias("parent")
    gain = candidate.c.fitness - parent.c.fitness
    query = (
        select(
            mutation.c.primitive,
            mutation.c.before,
            mutation.c.after,
            func.count().label("children"),
            func.count(gain).label("scored"),
            cast(func.count(candidate.c.joined), Float) / func.count(),
            func.avg(case((gain > 0, 1.0), (gain <= 0, 0.0))),
            func.avg(gain).label("mean_gain"),
            func.max(gain),
        )
        .select_from(candidate)
        .join(parent, parent.c.id == candidate.c.parent_id)
        .join(mutation, mutation.c.candidate_id == candidate.c.id)
        # Perturbations change several things at once, and their parents were measured on another task.
        .where(candidate.c.search_id == search_id, candidate.c.origin == Origin.MUTATION)
        .group_by(mutation.c.primitive, mutation.c.before, mutation.c.after)
        .order_by(func.avg(gain).desc().nulls_last(), mutation.c.primitive, mutation.c.before, mutation.c.after)
    )
    if block is not None:
        query = query.where(mutation.c.block == block)
    words = {"True": "yes", "False": "no"}
    return tuple(
        MutationStatistics(primitive, words.get(before, before), words.get(after, after), *figures)
        for primitive, before, after, *figures in connection.execute(query)
    )
