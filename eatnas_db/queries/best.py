"""The best candidates of a search."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from eatnas_db.schema import candidate


@dataclass(frozen=True, slots=True)
class BestCandidate:
    """A scored candidate in the ranking."""

    id: int
    birth: int
    fitness: float
    params: int
    mult_adds: int
    origin: str
    parent_birth: int | None
    code: str


def list_best(connection: Connection, search_id: int, top: int = 10) -> tuple[BestCandidate, ...]:
    """The fittest first; of equals the elder."""
    parent = candidate.alias("parent")
    query = (
        select(
            candidate.c.id,
            candidate.c.birth,
            candidate.c.fitness,
            candidate.c.params,
            candidate.c.mult_adds,
            candidate.c.origin,
            parent.c.birth.label("parent_birth"),
            candidate.c.code,
        )
        .outerjoin(parent, parent.c.id == candidate.c.parent_id)
        .where(candidate.c.search_id == search_id, candidate.c.fitness.is_not(None))
        .order_by(candidate.c.fitness.desc(), candidate.c.birth)
        .limit(top)
    )
    return tuple(BestCandidate(*row) for row in connection.execute(query))
