"""Decide in the order of births which candidates continue after a rung, by the rule in `domain.rungs`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, exists, select

from eatnas_db import transitions
from eatnas_db.domain.rungs import COMPARED_BIRTHS, RungResult, Rungs, is_promoted, rungs_of
from eatnas_db.domain.states import UNSETTLED, SearchKind
from eatnas_db.rung_results import WaitingRung
from eatnas_db.schema.candidates import WAITING, candidate
from eatnas_db.schema.trainings import rung
from eatnas_db.searches.advance_state import AdvanceState

_SELECT_WAITING: Final = (
    select(candidate.c.birth, *(rung.c[name] for name in WaitingRung._fields))
    .join(rung, rung.c.candidate_id == candidate.c.id)
    .where(candidate.c.search_id == bindparam("search_id"), WAITING, rung.c.promoted.is_(None))
    .order_by(candidate.c.birth)
)
_IS_COMPARED: Final = (
    candidate.c.search_id == bindparam("search_id"),
    candidate.c.birth >= bindparam("first"),
    candidate.c.birth < bindparam("end"),
)
_IS_DECIDED: Final = exists().where(
    rung.c.candidate_id == candidate.c.id, rung.c.number == bindparam("number"), rung.c.promoted.is_not(None)
)
_SELECT_OPEN: Final = (
    select(candidate.c.birth).where(*_IS_COMPARED, candidate.c.state.in_(UNSETTLED), ~_IS_DECIDED).limit(1)
)
_SELECT_RESULTS: Final = (
    select(rung.c.fitness, rung.c.promoted)
    .join(candidate, candidate.c.id == rung.c.candidate_id)
    .where(*_IS_COMPARED, rung.c.number == bindparam("number"), rung.c.promoted.is_not(None))
)


def decide_rungs(connection: Connection, state: AdvanceState, now: float) -> None:
    """Promote or stop each waiting candidate if the births before it have a result at the same rung or are settled."""
    record = state.search
    rungs = rungs_of(record.spec) if record.kind == SearchKind.EVOLUTION else None
    if rungs is None:
        return
    undecided: dict[int, list[int]] = {number: [] for number in range(len(rungs.epochs))}
    for birth, *values in connection.execute(_SELECT_WAITING, {"search_id": record.id}).all():
        waiting = WaitingRung(*values)
        earlier = _list_earlier_results(connection, state, birth, waiting.number, undecided[waiting.number])
        if earlier is None:
            undecided[waiting.number].append(birth)
        else:
            _decide(connection, state, rungs, waiting, earlier, now)


def _list_earlier_results(
    connection: Connection, state: AdvanceState, birth: int, number: int, undecided: Sequence[int]
) -> list[RungResult] | None:
    """Return the results at a rung that decide whether a birth continues, or None while one of these results is
    missing.

    `undecided` are earlier births that wait at this rung, in ascending order. Many births may wait for one slow birth,
    so the database is queried only if none of the births to compare is undecided.
    """
    end = max(0, birth - state.search.lag + 1)
    first = max(0, end - COMPARED_BIRTHS)
    place = bisect_left(undecided, end)
    if place and undecided[place - 1] >= first:
        return None
    window: dict[str, Any] = {"search_id": state.search.id, "first": first, "end": end, "number": number}
    if end > state.settled and connection.execute(_SELECT_OPEN, window).first() is not None:
        return None
    return [RungResult(*row) for row in connection.execute(_SELECT_RESULTS, window)]


def _decide(
    connection: Connection,
    state: AdvanceState,
    rungs: Rungs,
    waiting: WaitingRung,
    earlier: list[RungResult],
    now: float,
) -> None:
    if is_promoted(waiting.fitness, earlier, rungs.keep):
        transitions.promote(
            connection, waiting, to_epochs=rungs.epochs[waiting.number + 1], resumes=rungs.resumes, now=now
        )
    else:
        transitions.stop_at_rung(connection, waiting, now)
