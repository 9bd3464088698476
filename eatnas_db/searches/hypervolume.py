"""The hypervolume of the population of a search with several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, select

from eatnas_db.domain.evolution import Member
from eatnas_db.domain.objectives import choose_reference, relative_hypervolume
from eatnas_db.schema.candidates import candidate
from eatnas_db.searches.advance_state import AdvanceState

_INITIAL_VALUES: Final = (
    select(candidate.c.objectives)
    .where(
        candidate.c.search_id == bindparam("search_id"),
        candidate.c.birth < bindparam("population"),
        candidate.c.fitness.is_not(None),
    )
    .order_by(candidate.c.birth)
)


def compute_hypervolume(connection: Connection, state: AdvanceState, population: Sequence[Member]) -> float | None:
    """Return the hypervolume of the population after the current step.

    Return None if there is only one objective, or if an initial birth, on which the reference may depend, is not
    settled.
    """
    if not state.objectives or state.settled < state.search.population:
        return None
    if state.reference is None:
        state.reference = choose_reference(state.objectives, ()) or _read_reference(connection, state)
    if state.reference is None:
        return None
    return relative_hypervolume(state.objectives, [member.values for member in population], state.reference)


def _read_reference(connection: Connection, state: AdvanceState) -> tuple[float, ...] | None:
    parameters = {"search_id": state.search.id, "population": state.search.population}
    initial = connection.execute(_INITIAL_VALUES, parameters).scalars().all()
    return choose_reference(state.objectives, initial)
