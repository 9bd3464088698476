"""Where a candidate comes from, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from sqlalchemy import CTE, Connection, Integer, literal, select

from eatnas_db.domain.states import RETRAINED
from eatnas_db.queries.candidates import require_candidate
from eatnas_db.queries.mutations import describe_change
from eatnas_db.schema.candidates import candidate, mutation
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class LineageEntry:
    """A candidate of a family; `generation` counts births away from the one asked about.

    `gain`: its fitness less its parent's, where both were measured in one search.
    """

    id: int
    search: str
    parent_id: int | None
    generation: int
    birth: int
    origin: str
    state: str
    fitness: float | None
    gain: float | None
    changes: tuple[str, ...]
    code: str
    share_inherited: float | None = None
    lineage_epochs: int | None = None


@dataclass(frozen=True, slots=True)
class ScoredChild:
    """A scored child of somebody in a line of descent, and not of the line itself."""

    id: int
    parent_id: int
    birth: int
    origin: str
    fitness: float
    code: str


def get_lineage(connection: Connection, candidate_id: int) -> tuple[LineageEntry, ...]:
    """The candidate, its parent and so on to its root. Raises `NotFoundError`."""
    return _relatives(connection, candidate_id, _family(candidate_id, upward=True))[::-1]


def list_descendants(connection: Connection, candidate_id: int) -> tuple[LineageEntry, ...]:
    """The candidate, its children, theirs and so on, in order of generation and birth. Raises `NotFoundError`."""
    return _relatives(connection, candidate_id, _family(candidate_id, upward=False))


def list_scored_children(connection: Connection, line: Sequence[int]) -> list[ScoredChild]:
    """The scored children of the candidates of a line, but for the line itself; who measures one is no child of it."""
    columns = [candidate.c[name] for name in ScoredChild.__dataclass_fields__]
    query = select(*columns).where(
        candidate.c.parent_id.in_(line),
        candidate.c.id.not_in(line),
        candidate.c.fitness.is_not(None),
        candidate.c.origin.not_in(RETRAINED),
    )
    return [ScoredChild(*row) for row in connection.execute(query.order_by(candidate.c.id))]


def _family(candidate_id: int, *, upward: bool) -> CTE:
    """The numbers of a family; `generation` is negative for ancestors, so that parents come before their children."""
    family = (
        select(candidate.c.id, candidate.c.parent_id, literal(0, Integer).label("generation"))
        .where(candidate.c.id == candidate_id)
        .cte("family", recursive=True)
    )
    related = candidate.c.id == family.c.parent_id if upward else candidate.c.parent_id == family.c.id
    return family.union_all(
        select(candidate.c.id, candidate.c.parent_id, family.c.generation + (-1 if upward else 1)).join(family, related)
    )


_TOLD: Final = ("parent_id", "origin", "state", "fitness", "code", "share_inherited", "lineage_epochs")
_CHANGE: Final = ("block", "primitive", "before", "after")


def _relatives(connection: Connection, candidate_id: int, family: CTE) -> tuple[LineageEntry, ...]:
    require_candidate(connection, candidate_id)
    names = {row.id: row.name for row in connection.execute(select(search.c.id, search.c.name))}
    order = (family.c.generation, candidate.c.search_id, candidate.c.birth, mutation.c.ordinal)
    columns = [*(candidate.c[key] for key in _TOLD), *(mutation.c[key] for key in _CHANGE)]
    query = (
        select(*order, candidate.c.id, *columns)
        .select_from(family)
        .join(candidate, candidate.c.id == family.c.id)
        .outerjoin(mutation, mutation.c.candidate_id == candidate.c.id)
    )
    # Lines of descent grow as long as the search: hence by one statement, in one piece, and by position. They come
    # in order or nearly so, which Python sorts faster than a database does.
    rows = sorted(connection.execute(query).all(), key=itemgetter(*range(len(order))))
    measured: dict[int | None, tuple[int | None, float | None]] = {None: (None, None)}
    above = rows[0].parent_id
    if above is not None:
        parent = select(candidate.c.search_id, candidate.c.fitness).where(candidate.c.id == above)
        measured[above] = tuple(connection.execute(parent).one())
    found: list[LineageEntry] = []
    for row in rows:
        generation, search_id, birth, ordinal, number, parent_id, origin, state = row[:8]
        fitness, code, share, epochs, block, primitive, before, after = row[8:]
        changes = () if ordinal is None else (describe_change(block, primitive, before, after),)
        if ordinal:  # It is one more change of the candidate before.
            found[-1] = replace(found[-1], changes=found[-1].changes + changes)
            continue
        where, reached = measured[parent_id]
        measured[number] = search_id, fitness
        # Fitness on two tasks, or by two recipes, is not to be compared.
        gain = fitness - reached if where == search_id and fitness is not None and reached is not None else None
        place = (names[search_id], parent_id, abs(generation), birth, origin, state)
        found.append(LineageEntry(number, *place, fitness, gain, changes, code, share, epochs))
    return tuple(found)
