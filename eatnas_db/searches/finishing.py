"""Finish a search that has nothing left to train, and start the re-evaluation of its best candidates."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from eatnas_db.domain.states import SearchKind
from eatnas_db.errors import TransactionRollbackError
from eatnas_db.events import record_event
from eatnas_db.queries.ranking import list_to_reevaluate
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import lease
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.retrain import insert_reevaluation


def finish(connection: Connection, state: AdvanceState, now: float) -> bool:
    """Mark a search finished if it has nothing left to train. Return whether the search is finished.

    A search without a scored candidate has failed.
    """
    record = state.search
    if record.finished_at is not None:
        return True
    all_settled = state.settled == state.born and (state.exhausted or state.born >= state.births_allowed)
    if not (record.over_budget or all_settled) or _in_training(connection, state):
        return False
    unfinished = update(search).where(search.c.id == record.id, search.c.finished_at.is_(None))
    # The decisions at rungs may have scored candidates since the search was read.
    finished = unfinished.values(finished_at=now, failed=search.c.scored == 0).returning(search.c.id)
    if connection.execute(finished).first() is None:
        raise TransactionRollbackError(f"another host has finished search {record.name!r}; try again")
    detail: dict[str, Any] = {"why": _reason(state, all_settled)}
    if not all_settled:
        # Record the birth, because the speed of the machine decides at which birth the device hours end.
        detail |= {"birth": state.born, "step": state.settled}
    record_event(connection, now, "finished", search_id=record.id, detail=detail)
    reevaluation = record.spec["reevaluation"]
    best = list_to_reevaluate(connection, record.id, reevaluation["top"]) if reevaluation["top"] else ()
    if best and record.kind == SearchKind.EVOLUTION:
        codes = [(ranked.id, ranked.code) for ranked in best]
        insert_reevaluation(
            connection, record, codes, seeds=reevaluation["seeds"], epochs=reevaluation["epochs"], now=now
        )
    return True


def _in_training(connection: Connection, state: AdvanceState) -> bool:
    """Return whether a candidate is in training."""
    of_search = select(candidate.c.id).where(candidate.c.search_id == state.search.id).limit(1)
    return connection.execute(of_search.join(lease)).first() is not None


def _reason(state: AdvanceState, all_settled: bool) -> str:
    if not all_settled:
        return "out of budget"
    if not state.exhausted and state.born < state.search.budget_candidates:
        return "its quality is flat"
    return "done"
