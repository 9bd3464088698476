"""Who lives in a search's population, now or after any step."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from eatnas_db.errors import NotFoundError
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class PopulationMember:
    """A member of the population; `left` is the step at which it went, if it has."""

    id: int
    birth: int
    joined: int
    left: int | None
    fitness: float
    params: int
    mult_adds: int
    origin: str
    share_inherited: float | None
    lineage_epochs: int | None
    code: str


def list_population(connection: Connection, search_id: int, at: int | None = None) -> tuple[PopulationMember, ...]:
    """The members now, or after step `at`, in order of birth. Raises `NotFoundError` for a step not yet made."""
    made = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
    if at is not None and not 0 <= at <= made:
        raise NotFoundError(f"the search has no step {at}: its steps are 0 to {made}")
    columns = [candidate.c[name] for name in PopulationMember.__dataclass_fields__]
    here = select(*columns).where(candidate.c.search_id == search_id, candidate.c.joined.is_not(None))
    # Two range reads, each by its own partial index: those who live, and those who left since that step.
    living = here.where(candidate.c.left.is_(None))
    queries = [living]
    if at is not None:
        left_later = here.where(candidate.c.left > at, candidate.c.left.is_not(None))
        queries = [query.where(candidate.c.joined <= at) for query in (living, left_later)]
    members = [PopulationMember(*row) for query in queries for row in connection.execute(query)]
    return tuple(sorted(members, key=lambda member: member.birth))
