"""Query the current population of a search, or the population after any step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, bindparam, select

from eatnas_db.errors import NotFoundError
from eatnas_db.schema.candidates import LIVING, candidate
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class PopulationMember:
    """A member of the population; `joined` and `left` are steps, and `left` is None for a current member."""

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


class MembersQuery(NamedTuple):
    """Two queries that each read a range of a partial index. Their parameters are `search_id` and `step`."""

    living: Select[Any]
    """Selects the current members that joined up to the step."""
    left_later: Select[Any]
    """Selects the members that joined up to the step and left after it."""


def select_members(*columns: ColumnElement[Any]) -> MembersQuery:
    """Return two queries for these columns of the population after a step; together they find all members."""
    joined = select(*columns).where(
        candidate.c.search_id == bindparam("search_id"), candidate.c.joined <= bindparam("step")
    )
    left_later = joined.where(candidate.c.left > bindparam("step"), candidate.c.left.is_not(None))
    return MembersQuery(living=joined.where(LIVING), left_later=left_later)


def list_population(connection: Connection, search_id: int, at: int | None = None) -> tuple[PopulationMember, ...]:
    """Return the current members, or the members after step `at`, in order of birth.

    Raises `NotFoundError` if the search has not reached the step.
    """
    settled = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
    if at is not None and not 0 <= at <= settled:
        raise NotFoundError(f"the search has no step {at}; its steps are 0 to {settled}")
    queries = select_members(*(candidate.c[field.name] for field in fields(PopulationMember)))
    parameters = {"search_id": search_id, "step": settled if at is None else at}
    rows = [*connection.execute(queries.living, parameters)]
    if at is not None:
        rows += connection.execute(queries.left_later, parameters)
    members = [PopulationMember(*row) for row in rows]
    return tuple(sorted(members, key=lambda member: member.birth))
