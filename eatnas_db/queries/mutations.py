"""Query the mutations of candidates, and the kinds of mutation that improve fitness."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Final

from sqlalchemy import Connection, Float, case, cast, func, select

from eatnas_db.domain.change import Change
from eatnas_db.domain.states import Origin
from eatnas_db.schema.candidates import candidate, mutation

_BOOLEANS: Final[dict[str, bool]] = {"True": True, "False": False}


@dataclass(frozen=True, slots=True)
class MutationStatistics:
    """The effect of one kind of mutation in a search.

    A gain is the fitness of a child minus the fitness of its parent. `improved` is the share of scored children with a
    gain above 0. `joined` is the share of all children that joined the population.
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


def list_mutations(connection: Connection, candidate_id: int) -> tuple[str, ...]:
    """Return the mutations of a candidate as text, for example `block 5 kernel 3 → 7`."""
    query = (
        select(mutation.c.block, mutation.c.primitive, mutation.c.before, mutation.c.after)
        .where(mutation.c.candidate_id == candidate_id)
        .order_by(mutation.c.ordinal)
    )
    return tuple(describe_change(*row) for row in connection.execute(query))


def list_mutations_by_candidate(connection: Connection, candidate_ids: Collection[int]) -> dict[int, tuple[str, ...]]:
    """Return the mutations of several candidates as text; candidates without mutations are left out."""
    query = select(mutation).where(mutation.c.candidate_id.in_(candidate_ids)).order_by(mutation.c.ordinal)
    changes: dict[int, tuple[str, ...]] = {}
    for row in connection.execute(query):
        change = describe_change(row.block, row.primitive, row.before, row.after)
        changes[row.candidate_id] = (*changes.get(row.candidate_id, ()), change)
    return changes


@cache  # a space has a few hundred different changes
def describe_change(block: int, primitive: str, before: str, after: str) -> str:
    """Describe a stored mutation, for example `block 5 kernel 3 → 7`."""
    return str(Change(block, primitive, _BOOLEANS.get(before, before), _BOOLEANS.get(after, after)))


def list_mutation_statistics(
    connection: Connection, search_id: int, block: int | None = None
) -> tuple[MutationStatistics, ...]:
    """Return the statistics of every kind of mutation, in one block or in all blocks, in order of descending gain."""
    parent = candidate.alias("parent")
    gain = case((candidate.c.rung == parent.c.rung, candidate.c.fitness - parent.c.fitness))
    query = (
        select(
            mutation.c.primitive,
            mutation.c.before,
            mutation.c.after,
            func.count().label("children"),
            func.count(gain).label("scored"),
            (cast(func.count(candidate.c.joined), Float) / func.count()).label("joined"),
            func.avg(case((gain > 0, 1.0), (gain <= 0, 0.0))).label("improved"),
            func.avg(gain).label("mean_gain"),
            func.max(gain).label("best_gain"),
        )
        .select_from(candidate)
        .join(parent, parent.c.id == candidate.c.parent_id)
        .join(mutation, mutation.c.candidate_id == candidate.c.id)
        # Leave out perturbations: a perturbation changes several primitives, and its parent was scored on another task.
        .where(candidate.c.search_id == search_id, candidate.c.origin == Origin.MUTATION)
        .group_by(mutation.c.primitive, mutation.c.before, mutation.c.after)
        .order_by(func.avg(gain).desc().nulls_last(), mutation.c.primitive, mutation.c.before, mutation.c.after)
    )
    if block is not None:
        query = query.where(mutation.c.block == block)
    return tuple(
        MutationStatistics(
            primitive=row.primitive,
            before=_yes_or_no(row.before),
            after=_yes_or_no(row.after),
            children=row.children,
            scored=row.scored,
            joined=row.joined,
            improved=row.improved,
            mean_gain=row.mean_gain,
            best_gain=row.best_gain,
        )
        for row in connection.execute(query)
    )


def _yes_or_no(value: str) -> str:
    return {"True": "yes", "False": "no"}.get(value, value)
