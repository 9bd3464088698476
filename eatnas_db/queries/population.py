"""Who lives in a search's population, now or after any step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, select

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


LIVING: Final = and_(candidate.c.joined.is_not(None), candidate.c.left.is_(None))
"""The condition of a partial index: the candidate is a member of the population now."""


class MembersQuery(NamedTuple):
    """Two range reads, each by a partial index of its own; their parameters are `search_id` and `step`."""

    living: Select[Any]
    """The members after a step that still live."""
    left_later: Select[Any]
    """The members after a step that left later."""


def select_members(*columns: ColumnElement[Any]) -> MembersQuery:
    """Select these columns of the members of the population after a step; the two queries together return all."""
    joined = select(*columns).where(
        candidate.c.search_id == bindparam("search_id"), candidate.c.joined <= bindparam("step")
    )
    left_later = joined.where(candidate.c.left > bindparam("step"), candidate.c.left.is_not(None))
    return MembersQuery(living=joined.where(LIVING), left_later=left_later)


def list_population(connection: Connection, search_id: int, at: int | None = None) -> tuple[PopulationMember, ...]:
    """The members now, or after step `at`, in order of birth. Raises `NotFoundError` for a step not yet made."""
    made = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
    if at is not None and not 0 <= at <= made:
        raise NotFoundError(f"the search has no step {at}: its steps are 0 to {made}")
    queries = select_members(*(candidate.c[name] for name in PopulationMember.__dataclass_fields__))
    parameters = {"search_id": search_id, "step": made if at is None else at}
    rows = [*connection.execute(queries.living, parameters)]
    if at is not None:
        rows += connection.execute(queries.left_later, parameters)
    members = [PopulationMember(*row) for row in rows]
    return tuple(sorted(members, key=lambda member: member.birth))
