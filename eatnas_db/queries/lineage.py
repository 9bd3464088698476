"""Where a candidate comes from, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import CTE, Connection, Integer, literal, select

from eatnas_db.domain.states import RETRAINED
from eatnas_db.queries.candidates import require_candidate
from eatnas_db.queries.mutations import list_changes
from eatnas_db.schema import candidate, search


@dataclass(frozen=True, slots=True)
class Relative:
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
class Kin:
    """A scored child of somebody in a line of descent, and not of the line itself."""

    id: int
    parent_id: int
    birth: int
    origin: str
    fitness: float
    code: str


def get_lineage(connection: Connection, candidate_id: int) -> tuple[Relative, ...]:
    """The candidate, its parent and so on to its root. Raises `NotFoundError`."""
    return _relatives(connection, candidate_id, _family(candidate_id, upward=True))


def list_descendants(connection: Connection, candidate_id: int) -> tuple[Relative, ...]:
    """The candidate, its children, theirs and so on, in order of generation and birth. Raises `NotFoundError`."""
    return _relatives(connection, candidate_id, _family(candidate_id, upward=False))


def list_kin(connection: Connection, line: Sequence[int]) -> list[Kin]:
    """The scored children of the candidates of a line, but for the line itself; who measures one is no child of it."""
    columns = [candidate.c[name] for name in Kin.__dataclass_fields__]
    query = select(*columns).where(
        candidate.c.parent_id.in_(line),
        candidate.c.id.not_in(line),
        candidate.c.fitness.is_not(None),
        candidate.c.origin.not_in(RETRAINED),
    )
    return [Kin(*row) for row in connection.execute(query.order_by(candidate.c.id))]


def _family(candidate_id: int, *, upward: bool) -> CTE:
    family = (
        select(candidate.c.id, candidate.c.parent_id, literal(0, Integer).label("generation"))
        .where(candidate.c.id == candidate_id)
        .cte("family", recursive=True)
    )
    related = candidate.c.id == family.c.parent_id if upward else candidate.c.parent_id == family.c.id
    return family.union_all(
        select(candidate.c.id, candidate.c.parent_id, family.c.generation + 1).join(family, related)
    )


def _relatives(connection: Connection, candidate_id: int, family: CTE) -> tuple[Relative, ...]:
    require_candidate(connection, candidate_id)
    changes = list_changes(connection, select(family.c.id))
    parent = candidate.alias("parent")
    names = ("birth", "origin", "state", "fitness", "code", "share_inherited", "lineage_epochs")
    told = [candidate.c[name] for name in names]
    query = (
        select(candidate.c.id, search.c.name, candidate.c.parent_id, family.c.generation, *told, parent.c.fitness)
        .join(family, family.c.id == candidate.c.id)
        .join(search, search.c.id == candidate.c.search_id)
        # Fitness on two tasks, or by two recipes, is not to be compared.
        .outerjoin(parent, (parent.c.id == candidate.c.parent_id) & (parent.c.search_id == candidate.c.search_id))
        .order_by(family.c.generation, candidate.c.search_id, candidate.c.birth)
    )
    # Lines of descent grow as long as the search: hence in one piece, and by position.
    rows = connection.execute(query).all()
    return tuple(
        Relative(
            number,
            name,
            parent_id,
            generation,
            birth,
            origin,
            state,
            fitness,
            None if fitness is None or before is None else fitness - before,
            changes.get(number, ()),
            code,
            share,
            epochs,
        )
        for number, name, parent_id, generation, birth, origin, state, fitness, code, share, epochs, before in rows
    )
