"""Settle births in order: each settled birth is one step of the population."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, insert, select, update

from eatnas_db.domain.evolution import is_flat, select_removed, summarize, update_plateau
from eatnas_db.domain.states import SETTLED, CandidateState, SearchKind
from eatnas_db.errors import TransactionRollbackError
from eatnas_db.events import record_event
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search, step
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.population import join_population, leave_population, list_members

DEFAULT_FLAT_POPULATIONS: Final = 4
"""Quality is flat after this many populations of steps without a rise, unless the spec sets `flat_steps`."""

_SELECT_BIRTH: Final = select(candidate.c.id, candidate.c.state).where(
    candidate.c.search_id == bindparam("search_id"), candidate.c.birth == bindparam("birth")
)
_ADVANCE_SETTLED: Final = (
    update(search)
    .where(search.c.id == bindparam("search_id"), search.c.settled == bindparam("step_number") - 1)
    .values(settled=bindparam("step_number"))
    .returning(search.c.id)
)
_PREVIOUS_SECONDS: Final = select(step.c.device_seconds).where(
    step.c.search_id == bindparam("of_search"), step.c.number == bindparam("previous_step")
)
_BIRTH_SECONDS: Final = select(func.sum(attempt.c.device_seconds)).where(
    attempt.c.candidate_id == bindparam("settled_candidate")
)
_INSERT_STEP: Final = insert(step).values(
    device_seconds=func.coalesce(_PREVIOUS_SECONDS.scalar_subquery(), 0.0)
    + func.coalesce(_BIRTH_SECONDS.scalar_subquery(), 0.0)
)


def settle(connection: Connection, state: AdvanceState, now: float) -> int:
    """Settle births until one has not ended yet, and return their number. Raises `TransactionRollbackError`."""
    steps = 0
    while _settle_next(connection, state, now):
        steps += 1
    return steps


def _settle_next(connection: Connection, state: AdvanceState, now: float) -> bool:
    record = state.search
    if state.settled == state.born:
        return False
    birth = connection.execute(_SELECT_BIRTH, {"search_id": record.id, "birth": state.settled}).first()
    if birth is None or birth.state not in SETTLED:
        return False
    number = state.settled + 1
    if connection.execute(_ADVANCE_SETTLED, {"search_id": record.id, "step_number": number}).first() is None:
        raise TransactionRollbackError(
            f"another program has settled birth {state.settled} of search {record.name!r}; try again"
        )
    state.settled, state.population = number, None
    if birth.state == CandidateState.SCORED:
        join_population(connection, birth.id, number)
    population = list_members(connection, state, number)
    evolution = record.spec["evolution"]
    removed = select_removed(population, record.population, evolution["removal"], seed=record.seed, step=number)
    if removed is not None:
        leave_population(connection, removed.candidate_id, number)
        population.remove(removed)
    state.population = population
    summary = summarize([member.fitness for member in population])
    values = {
        "search_id": record.id,
        "number": number,
        "of_search": record.id,
        "previous_step": number - 1,
        "settled_candidate": birth.id,
        "size": summary.size,
        "mean": summary.mean,
        "spread": summary.spread,
        "best": summary.best,
        "quality": summary.quality,
        "at": now,
    }
    connection.execute(_INSERT_STEP, values)
    if evolution["stop_when"] == "quality_flat" and record.kind == SearchKind.EVOLUTION:
        _check_plateau(connection, state, summary.quality, now)
    return True


def _check_plateau(connection: Connection, state: AdvanceState, quality: float | None, now: float) -> None:
    """Record a rise of quality, or that quality is flat and the search ends.

    The search ends with the births that may be in flight when the step is made: the first `step + lag - 1`. On every
    machine these are born whatever the step finds, and the next birth is not decided before the step is known.
    """
    record, number = state.search, state.settled
    if number < record.population or state.ends_at is not None:
        return
    if state.plateau is not None and number <= state.plateau.since:
        return  # It was extended before its last births were settled, which do not count then or later.
    evolution = record.spec["evolution"]
    plateau = update_plateau(state.plateau, number, quality, evolution["flat_by"])
    flat_steps = evolution["flat_steps"] or DEFAULT_FLAT_POPULATIONS * record.population
    if plateau is not None and plateau != state.plateau:
        state.plateau = plateau
        values: dict[str, Any] = {"quality_mark": plateau.mark, "flat_since": plateau.since}
    elif plateau is not None and is_flat(plateau, number, population=record.population, flat_steps=flat_steps):
        state.ends_at = min(number + record.lag - 1, record.budget_candidates)
        values = {"ends_at": state.ends_at}
        detail = {"step": number, "since": plateau.since, "by": evolution["flat_by"], "births": state.ends_at}
        record_event(connection, now, "quality_flat", search_id=record.id, detail=detail)
    else:
        return
    connection.execute(update(search).where(search.c.id == record.id).values(values))
