"""Query the attempts that ended without a score, and the reasons for their failures."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from eatnas_db.domain.states import CandidateState
from eatnas_db.queries.paging import EVERYTHING, Page, fetch_page
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import attempt


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed or lost attempt; `state` is the current state of its candidate."""

    candidate_id: int
    birth: int
    attempt: int
    state: str
    failure: str
    message: str | None
    traceback: str | None
    device_seconds: float
    ended_at: float


def describe_last_failure(connection: Connection, search_id: int) -> str | None:
    """Return the failure of a search's last failed birth in one line; None if no birth has failed."""
    query = (
        select(attempt.c.failure, attempt.c.message)
        .select_from(candidate)
        .join(attempt, (attempt.c.candidate_id == candidate.c.id) & (attempt.c.number == candidate.c.attempt))
        .where(candidate.c.search_id == search_id, candidate.c.state == CandidateState.FAILED)
        .order_by(candidate.c.birth.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    if row is None or row.failure is None:
        return None
    message = (row.message or "").strip().partition("\n")[0]
    return ": ".join(filter(None, (row.failure.replace("_", " "), message)))


def list_failures(connection: Connection, search_id: int, page: Page = EVERYTHING) -> tuple[FailedAttempt, ...]:
    """Return a page of a search's failed and lost attempts in order of birth and attempt.

    Raises `ConflictError` for a page with an unknown column.
    """
    query = (
        select(
            candidate.c.id.label("candidate_id"),
            candidate.c.birth,
            attempt.c.number.label("attempt"),
            candidate.c.state,
            attempt.c.failure,
            attempt.c.message,
            attempt.c.traceback,
            attempt.c.device_seconds,
            attempt.c.ended_at,
        )
        .join(attempt, attempt.c.candidate_id == candidate.c.id)
        .where(candidate.c.search_id == search_id, attempt.c.failure.is_not(None))
    )
    return tuple(fetch_page(connection, query, page, row_type=FailedAttempt, order=("birth", "attempt")))
