"""Read and change the population of a search while a transaction advances it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, update

from eatnas_db.domain.evolution import Member
from eatnas_db.queries.population import select_members
from eatnas_db.schema.candidates import candidate
from eatnas_db.searches.advance_state import AdvanceState

_JOIN: Final = update(candidate).where(candidate.c.id == bindparam("candidate_id")).values(joined=bindparam("step"))
_LEAVE: Final = update(candidate).where(candidate.c.id == bindparam("candidate_id")).values(left=bindparam("step"))
_MEMBERS: Final = select_members(
    candidate.c.id,
    candidate.c.birth,
    candidate.c.joined,
    candidate.c.fitness,
    candidate.c.code,
    candidate.c.objectives,
    candidate.c.rung,
)


def join_population(connection: Connection, steps: Mapping[int, int]) -> None:
    """Add candidates to the population; `steps` maps their ids to the steps at which they join."""
    if steps:
        rows = [{"candidate_id": candidate_id, "step": step} for candidate_id, step in steps.items()]
        connection.execute(_JOIN, rows)


def leave_population(connection: Connection, steps: Mapping[int, int]) -> None:
    """Remove candidates from the population; `steps` maps their ids to the steps at which they leave."""
    if steps:
        rows = [{"candidate_id": candidate_id, "step": step} for candidate_id, step in steps.items()]
        connection.execute(_LEAVE, rows)


def list_members(connection: Connection, state: AdvanceState, step: int) -> list[Member]:
    """List the members of the population after `step`, an existing step, in order of birth."""
    if step == state.settled and state.population is not None:
        return state.population
    parameters = {"search_id": state.search.id, "step": step}
    rows = [*connection.execute(_MEMBERS.living, parameters)]
    if step < state.settled:
        rows += connection.execute(_MEMBERS.left_later, parameters)
    members = (
        Member(
            row.id,
            row.birth,
            row.joined,
            row.fitness,
            row.code,
            state.orient(row.objectives),
            row.rung,
        )
        for row in rows
    )
    return sorted(members, key=lambda member: member.birth)
