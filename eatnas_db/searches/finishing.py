"""Finish a search that has nothing left to train, and start the re-evaluation of its best candidates."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from eatnas_db.domain.states import SearchKind
from eatnas_db.events import record_event
from eatnas_db.queries.ranking import list_fittest
from eatnas_db.schema.candidates import PENDING, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import lease
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.retrain import insert_reevaluation


def finish(connection: Connection, state: AdvanceState, now: float) -> bool:
    """Mark a search finished if nothing of it is left to train. Return whether it is finished."""
    record = state.search
    if record.finished_at is not None:
        return True
    all_settled = state.settled == state.born and (state.exhausted or state.born >= state.births_allowed)
    if not (record.over_budget or all_settled) or _has_open_candidates(connection, state):
        return False
    connection.execute(update(search).where(search.c.id == record.id).values(finished_at=now))
    detail = {"why": _reason(state, all_settled)}
    record_event(connection, now, "finished", search_id=record.id, detail=detail)
    reevaluation = record.spec["reevaluation"]
    best = list_fittest(connection, record.id, reevaluation["top"]) if reevaluation["top"] else ()
    if best and record.kind == SearchKind.EVOLUTION:
        codes = [(ranked.id, ranked.code) for ranked in best]
        insert_reevaluation(
            connection, record, codes, seeds=reevaluation["seeds"], epochs=reevaluation["epochs"], now=now
        )
    return True


def _has_open_candidates(connection: Connection, state: AdvanceState) -> bool:
    """Return whether a candidate is in training or, within the budget, still to be trained.

    A candidate that was retried may be pending although its birth is settled.
    """
    record = state.search
    of_search = select(candidate.c.id).where(candidate.c.search_id == record.id).limit(1)
    if connection.execute(of_search.join(lease)).first() is not None:
        return True
    return not record.over_budget and connection.execute(of_search.where(PENDING)).first() is not None


def _reason(state: AdvanceState, all_settled: bool) -> str:
    if not all_settled:
        return "out of budget"
    if not state.exhausted and state.born < state.search.budget_candidates:
        return "its quality is flat"
    return "done"
