"""Start and end attempts. An attempt is one try at training a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Update, bindparam, delete, insert, select, update

from eatnas_db.database.bulk_insert import insert_rows
from eatnas_db.domain.states import FailureKind, MemoryFallback
from eatnas_db.events import record_event
from eatnas_db.leases import LeaseToken
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, checkpoint, epoch, lease

AT_RUNG: Final = "rung"
"""The outcome of an attempt that reached a rung; it becomes `scored` if the candidate stops at this rung."""

_INSERT_ATTEMPT: Final = insert(attempt)
_INSERT_LEASE: Final = insert(lease)


def start_attempt(connection: Connection, token: LeaseToken, *, host_id: int, worker_id: int, now: float) -> None:
    """Insert an attempt together with its lease."""
    started = {
        "candidate_id": token.candidate,
        "number": token.attempt,
        "worker_id": worker_id,
        "started_at": now,
    }
    connection.execute(_INSERT_ATTEMPT, started)
    held = {"candidate_id": token.candidate, "attempt": token.attempt, "host_id": host_id}
    connection.execute(_INSERT_LEASE, held)


class EndedAttempt(NamedTuple):
    """The device seconds of an attempt that has ended, and the kind of its failure if it failed."""

    device_seconds: float
    failure: str | None


_SELECT_EARLIER: Final = (
    select(attempt.c.device_seconds, attempt.c.failure)
    .where(attempt.c.candidate_id == bindparam("candidate_id"), attempt.c.number < bindparam("number"))
    .order_by(attempt.c.number)
)


def list_earlier_attempts(connection: Connection, token: LeaseToken) -> Sequence[EndedAttempt]:
    """List the earlier attempts of a candidate, the oldest first."""
    if token.attempt == 1:
        return ()
    rows = connection.execute(_SELECT_EARLIER, {"candidate_id": token.candidate, "number": token.attempt})
    return [EndedAttempt(*row) for row in rows]


@cache
def _closing_update(*columns: str) -> Update:
    return (
        update(attempt)
        .where(
            attempt.c.candidate_id == bindparam("token_candidate"),
            attempt.c.number == bindparam("token_attempt"),
            attempt.c.ended_at.is_(None),
        )
        .values(**{column: bindparam(f"new_{column}") for column in columns})
    )


_DELETE_LEASE: Final = delete(lease).where(lease.c.candidate_id == bindparam("candidate_id"))
_ADD_TO_COUNTERS: Final = (
    update(search)
    .where(search.c.id == bindparam("search_id"))
    .values(
        device_seconds=search.c.device_seconds + bindparam("more_seconds"),
        scored=search.c.scored + bindparam("more_scored"),
    )
)


def end_attempt(
    connection: Connection,
    token: LeaseToken,
    *,
    search_id: int,
    outcome: str,
    device_seconds: float,
    step_seconds: float | None = None,
    now: float,
    **details: Any,
) -> None:
    """End an attempt, delete its lease and update the counters of its search; `details` are further columns to set."""
    times = {"ended_at": now, "device_seconds": device_seconds, "step_seconds": step_seconds}
    columns = {"outcome": outcome, **times, **details}
    values = {f"new_{column}": value for column, value in columns.items()}
    parameters = {"token_candidate": token.candidate, "token_attempt": token.attempt, **values}
    connection.execute(_closing_update(*columns), parameters)
    connection.execute(_DELETE_LEASE, {"candidate_id": token.candidate})
    more_scored = 1 if outcome == "scored" else 0
    if device_seconds or more_scored:
        counters = {"search_id": search_id, "more_seconds": device_seconds, "more_scored": more_scored}
        connection.execute(_ADD_TO_COUNTERS, counters)


_SELECT_BOOKED: Final = (
    select(attempt.c.device_seconds, candidate.c.search_id)
    .join(candidate, candidate.c.id == attempt.c.candidate_id)
    .where(
        attempt.c.candidate_id == bindparam("token_candidate"),
        attempt.c.number == bindparam("token_attempt"),
        attempt.c.ended_at.is_not(None),
    )
)
_BOOK_TIME: Final = (
    update(attempt)
    .where(
        attempt.c.candidate_id == bindparam("token_candidate"),
        attempt.c.number == bindparam("token_attempt"),
    )
    .values(device_seconds=bindparam("new_device_seconds"), step_seconds=bindparam("new_step_seconds"))
)


def raise_device_time(connection: Connection, token: LeaseToken, *, device_seconds: float, step_seconds: float) -> None:
    """Increase the recorded time of an attempt that another program has ended, and the time of its search.

    That program knows only the recorded epochs, while the host of the attempt has measured the whole time.
    """
    parameters = {"token_candidate": token.candidate, "token_attempt": token.attempt}
    booked = connection.execute(_SELECT_BOOKED, parameters).first()
    if booked is None or device_seconds <= (booked.device_seconds or 0.0):
        return
    connection.execute(
        _BOOK_TIME, {**parameters, "new_device_seconds": device_seconds, "new_step_seconds": step_seconds}
    )
    more_seconds = device_seconds - (booked.device_seconds or 0.0)
    connection.execute(
        _ADD_TO_COUNTERS, {"search_id": booked.search_id, "more_seconds": more_seconds, "more_scored": 0}
    )


def insert_scored_attempts(
    connection: Connection, candidate_ids: Sequence[int], *, search_id: int, worker_id: int, now: float
) -> None:
    """Insert a first attempt for each candidate that has an imported score, and count these candidates as scored."""
    times = {"started_at": now, "ended_at": now, "device_seconds": 0.0}
    rows = [
        {"candidate_id": candidate_id, "number": 1, "worker_id": worker_id, "outcome": "scored", **times}
        for candidate_id in candidate_ids
    ]
    insert_rows(connection, attempt, rows)
    counters = {"search_id": search_id, "more_seconds": 0.0, "more_scored": len(rows)}
    connection.execute(_ADD_TO_COUNTERS, counters)


_SCORE_ATTEMPT: Final = (
    update(attempt)
    .where(attempt.c.candidate_id == bindparam("token_candidate"), attempt.c.number == bindparam("token_attempt"))
    .values(outcome="scored")
)


def count_as_scored(connection: Connection, token: LeaseToken, search_id: int) -> None:
    """Set the outcome to `scored` for an attempt that reached a rung, and count its candidate as scored."""
    connection.execute(_SCORE_ATTEMPT, {"token_candidate": token.candidate, "token_attempt": token.attempt})
    connection.execute(_ADD_TO_COUNTERS, {"search_id": search_id, "more_seconds": 0.0, "more_scored": 1})


def discard_progress(connection: Connection, candidate_id: int) -> None:
    """Delete the rows of the epochs and checkpoints of a candidate that is trained again from scratch.

    The worker of the new attempt removes the files.
    """
    for table in (epoch, checkpoint):
        connection.execute(delete(table).where(table.c.candidate_id == candidate_id))


def last_attempt_to_ignore(earlier: Sequence[EndedAttempt], memory_fallback: MemoryFallback) -> int:
    """Return the last attempt whose checkpoints the next attempt must not use, or 0 if it may use all checkpoints.

    The first attempt with split batches starts from scratch, because split and whole batches do not give bit-identical
    results.
    """
    if memory_fallback != MemoryFallback.HALVED:
        return 0
    return max(n for n, ended in enumerate(earlier, 1) if ended.failure == FailureKind.OUT_OF_MEMORY)


def has_progressed(connection: Connection, token: LeaseToken) -> bool:
    """Return whether an attempt recorded an epoch or a checkpoint."""
    return any(
        connection.execute(
            select(table.c.candidate_id)
            .where(table.c.candidate_id == token.candidate, table.c.attempt == token.attempt)
            .limit(1)
        ).first()
        for table in (epoch, checkpoint)
    )


def count_known_seconds(connection: Connection, token: LeaseToken, reported: float) -> float:
    """Return the seconds in steps of an attempt whose daemon can no longer report them.

    The result is the larger of two sums: the seconds of all epochs that the attempt recorded, and `reported`, the
    seconds at the last heartbeat, which include an unfinished epoch. The first epoch of a later attempt does not count:
    an earlier attempt may have trained the beginning of this epoch, and the recorded seconds include that beginning.
    """
    of_attempt = (epoch.c.candidate_id == token.candidate, epoch.c.attempt == token.attempt)
    seconds = connection.execute(select(epoch.c.seconds).where(*of_attempt).order_by(epoch.c.number)).scalars().all()
    return max(reported, float(sum(seconds if token.attempt == 1 else seconds[1:])))


def record_attempt_event(
    connection: Connection,
    now: float,
    kind: str,
    search_id: int,
    token: LeaseToken,
    detail: dict[str, Any] | None = None,
) -> None:
    """Record an event of an attempt."""
    record_event(
        connection,
        now,
        kind,
        search_id=search_id,
        candidate_id=token.candidate,
        attempt=token.attempt,
        detail=detail,
    )
