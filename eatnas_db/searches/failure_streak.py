"""Pause a search whose births fail one after another for the same reason."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import Connection, select, update

from eatnas_db.domain.states import CandidateState, DesiredState
from eatnas_db.events import record_event
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.advance_state import AdvanceState

DEFAULT_EQUAL_FAILURES: Final = 10
"""The number of equal failures that pauses searches that were created before the spec had `budget.equal_failures`."""
MAX_REASON_LENGTH: Final = 500
_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]+|\d+(\.\d+)?")


def pause_after_equal_failures(connection: Connection, state: AdvanceState, now: float) -> bool:
    """Pause the search if its last settled births have all failed for the same reason. Return whether the search is
    paused.

    Births before the previous pause of this kind do not count again.
    """
    record = state.search
    needed = record.spec["budget"].get("equal_failures", DEFAULT_EQUAL_FAILURES)
    first = state.settled - needed
    if not needed or first < record.streak_start:
        return False
    query = (
        select(candidate.c.state, attempt.c.failure, attempt.c.message)
        .outerjoin(attempt, (attempt.c.candidate_id == candidate.c.id) & (attempt.c.number == candidate.c.attempt))
        .where(candidate.c.search_id == record.id, candidate.c.birth >= first, candidate.c.birth < state.settled)
        .order_by(candidate.c.birth)
    )
    rows = connection.execute(query).all()
    if any(row.state != CandidateState.FAILED for row in rows):
        return False
    if len({(row.failure, _NUMBER.sub("0", _first_line(row.message))) for row in rows}) > 1:
        return False
    kind, message = rows[-1].failure.replace("_", " "), _first_line(rows[-1].message)
    failed = "a birth failed" if needed == 1 else f"{needed} births in a row failed for the same reason"
    reason = (
        f"{failed} ({kind}: {message[:MAX_REASON_LENGTH]}); "
        f"remove the cause, then run `eatnas-db search resume {record.name}`"
    )
    values = {"wish": DesiredState.PAUSED, "pause_reason": reason, "streak_start": state.settled}
    connection.execute(update(search).where(search.c.id == record.id).values(values))
    record_event(connection, now, "paused", search_id=record.id, detail={"reason": reason})
    return True


def _first_line(message: str | None) -> str:
    return (message or "").strip().partition("\n")[0]
