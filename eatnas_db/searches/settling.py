"""Settle births in order: each settled birth is one step of the population."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, bindparam, func, select, update

from eatnas_db.database.bulk_insert import insert_rows
from eatnas_db.domain.evolution import (
    Member,
    PopulationSummary,
    is_flat,
    select_removed,
    summarize_population,
    update_plateau,
)
from eatnas_db.domain.states import SETTLED, CandidateState, SearchKind
from eatnas_db.errors import CollisionError
from eatnas_db.events import record_event
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search, step
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.hypervolume import compute_hypervolume
from eatnas_db.searches.population import join_population, leave_population, list_members

DEFAULT_FLAT_POPULATIONS: Final = 4
"""The default of `flat_steps` is this many times the size of the population."""

FIRST_BIRTHS: Final = 4
"""The number of births that the first statement reads. Each further statement reads `GROWTH` times as many."""
GROWTH: Final = 8

_BIRTH_SECONDS: Final = select(func.sum(attempt.c.device_seconds)).where(attempt.c.candidate_id == candidate.c.id)
_PREVIOUS_SECONDS: Final = select(step.c.device_seconds).where(
    step.c.search_id == bindparam("search_id"), step.c.number == bindparam("first")
)
_SELECT_BIRTHS: Final = (
    select(
        candidate.c.id,
        candidate.c.birth,
        candidate.c.state,
        candidate.c.fitness,
        candidate.c.code,
        candidate.c.objectives,
        candidate.c.rung,
        func.coalesce(_BIRTH_SECONDS.scalar_subquery(), 0.0).label("device_seconds"),
        func.coalesce(_PREVIOUS_SECONDS.scalar_subquery(), 0.0).label("previous_seconds"),
    )
    .where(candidate.c.search_id == bindparam("search_id"), candidate.c.birth >= bindparam("first"))
    .order_by(candidate.c.birth)
    .limit(bindparam("limit"))
)
_ADVANCE_SETTLED: Final = (
    update(search)
    .where(search.c.id == bindparam("search_id"), search.c.settled == bindparam("before"))
    .values(settled=bindparam("after"))
    .returning(search.c.id)
)


class _Birth(NamedTuple):
    """A birth that may have ended, with its device seconds and the device seconds of all births before it."""

    id: int
    birth: int
    state: str
    fitness: float | None
    code: str
    objectives: list[float] | None
    rung: int
    device_seconds: float
    previous_seconds: float


@dataclass(slots=True)
class _Changes:
    """The changes that several settled births make."""

    joined: dict[int, int] = field(default_factory=dict)
    """The step at which each candidate joins."""
    left: dict[int, int] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)


def settle(connection: Connection, state: AdvanceState, now: float) -> int:
    """Settle births in order up to the first birth that has not ended, and return the number of settled births. Raises
    `CollisionError`.
    """
    before, limit = state.settled, FIRST_BIRTHS
    while state.settled < state.born:
        parameters = {"search_id": state.search.id, "first": state.settled, "limit": limit}
        births = [_Birth(*row) for row in connection.execute(_SELECT_BIRTHS, parameters)]
        ended = list(takewhile(lambda birth: birth.state in SETTLED, births))
        if ended:
            _settle_births(connection, state, ended, now)
        if len(ended) < limit:
            break
        limit *= GROWTH
    return state.settled - before


def _settle_births(connection: Connection, state: AdvanceState, births: Sequence[_Birth], now: float) -> None:
    """Make one step for each birth, and write all steps together."""
    record = state.search
    population = list(list_members(connection, state, state.settled))
    advanced = {"search_id": record.id, "before": state.settled, "after": state.settled + len(births)}
    if connection.execute(_ADVANCE_SETTLED, advanced).first() is None:
        raise CollisionError(f"another program has settled birth {state.settled} of search {record.name!r}; try again")
    state.settled_failure |= any(birth.state == CandidateState.FAILED for birth in births)
    changes, summary = _Changes(), summarize_population(population)
    hypervolume = compute_hypervolume(connection, state, population)
    seconds = births[0].previous_seconds
    for birth in births:
        state.settled += 1
        seconds += birth.device_seconds
        if birth.state == CandidateState.SCORED:
            _change_population(state, population, birth, changes)
            summary = summarize_population(population)
        if birth.state == CandidateState.SCORED or hypervolume is None:
            hypervolume = compute_hypervolume(connection, state, population)
        changes.steps.append({**_step_row(state, summary, seconds, now), "hypervolume": hypervolume})
        if record.kind == SearchKind.EVOLUTION and record.spec["evolution"]["stop_when"] == "quality_flat":
            _check_plateau(connection, state, hypervolume if state.objectives else summary.quality, now)
    state.population = population
    join_population(connection, changes.joined)
    leave_population(connection, changes.left)
    insert_rows(connection, step, changes.steps)


def _change_population(state: AdvanceState, population: list[Member], birth: _Birth, changes: _Changes) -> None:
    """Add a scored candidate at the current step, and remove a member if the population exceeds its limit."""
    assert birth.fitness is not None
    record, number = state.search, state.settled
    values = state.orient(birth.objectives)
    population.append(Member(birth.id, birth.birth, number, birth.fitness, birth.code, values, birth.rung))
    changes.joined[birth.id] = number
    removal = record.spec["evolution"]["removal"]
    removed = select_removed(population, record.population, removal, seed=record.seed, step=number)
    if removed is not None:
        population.remove(removed)
        changes.left[removed.candidate_id] = number


def _step_row(state: AdvanceState, summary: PopulationSummary, seconds: float, now: float) -> dict[str, Any]:
    return {
        "search_id": state.search.id,
        "number": state.settled,
        "size": summary.size,
        "mean": summary.mean,
        "spread": summary.spread,
        "best": summary.best,
        "quality": summary.quality,
        "device_seconds": seconds,
        "at": now,
    }


def _check_plateau(connection: Connection, state: AdvanceState, quality: float | None, now: float) -> None:
    """Record that quality has risen, or that it is flat and the search ends.

    The search ends after the first `step + lag - 1` births, all of which may be in training or finished when the step
    is made. On every machine, these births are decided without this step, and the next birth is decided after it.
    """
    record, number = state.search, state.settled
    if number < record.population or state.ends_at is not None:
        return
    if state.plateau is not None and number <= state.plateau.since:
        return  # The search was extended before these births were settled, so they do not count.
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
