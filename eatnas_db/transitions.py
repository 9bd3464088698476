"""Change the state of candidates. No other module writes the column `state`.

Each transition is one guarded UPDATE … RETURNING, together with its event, in the caller's transaction. The guards are
generated from the table of transitions in `domain.states`. A write with an outdated lease token raises
`StaleLeaseError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Update, bindparam, select, update

from eatnas_db.attempts import (
    AT_RUNG,
    count_as_scored,
    count_known_seconds,
    discard_progress,
    end_attempt,
    has_progressed,
    insert_scored_attempts,
    last_attempt_to_ignore,
    list_earlier_attempts,
    record_attempt_event,
    start_attempt,
)
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.failure_policy import NOT_ITS_OWN, FailureDecision, decide_after_failure
from eatnas_db.domain.objective import TEST_ACCURACY, VALIDATION_ACCURACY
from eatnas_db.domain.states import ALLOWED_TRANSITIONS, CandidateState, FailureKind, MemoryFallback, Transition
from eatnas_db.errors import ConflictError
from eatnas_db.events import record_events
from eatnas_db.leases import (
    ANY_CANDIDATE,
    NEXT_PENDING,
    LeasedCandidate,
    LeaseFilter,
    LeaseToken,
    list_leases,
    next_pending_parameters,
    require_lease,
    stale_lease,
)
from eatnas_db.provenance import Provenance, store_provenance
from eatnas_db.rung_results import Rung, WaitingRung, insert_rung, record_decision
from eatnas_db.schema.candidates import PENDING, candidate
from eatnas_db.scores import (
    ImportedScore,
    Measurement,
    insert_imported_scores,
    insert_measurements,
    insert_scores,
    raise_memory_share,
)
from eatnas_db.text_encoding import to_storable

_LEASE_NEXT: Final = (
    update(candidate)
    .where(candidate.c.id == NEXT_PENDING, PENDING)
    .values(state=ALLOWED_TRANSITIONS[Transition.LEASE][1], attempt=candidate.c.attempt + 1)
    .returning(
        candidate.c.id,
        candidate.c.attempt,
        candidate.c.birth,
        candidate.c.code,
        candidate.c.mult_adds,
        candidate.c.parent_id,
        candidate.c.replica,
        candidate.c.origin,
        candidate.c.params,
        candidate.c.activations,
        candidate.c.thrift,
    )
)


def lease_next(
    connection: Connection,
    search_id: int,
    *,
    host_id: int,
    worker_id: int,
    now: float,
    lease_filter: LeaseFilter = ANY_CANDIDATE,
) -> LeasedCandidate | None:
    """Lease a search's oldest pending candidate that the filter accepts. Return None if there is no such candidate."""
    row = connection.execute(_LEASE_NEXT, next_pending_parameters(search_id, lease_filter, now)).first()
    if row is None:
        return None
    token = LeaseToken(row.id, row.attempt)
    earlier = list_earlier_attempts(connection, token)
    fallback = MemoryFallback(row.thrift)
    start_attempt(connection, token, host_id=host_id, worker_id=worker_id, now=now)
    record_attempt_event(connection, now, Transition.LEASE, search_id, token)
    return LeasedCandidate(
        token=token,
        search_id=search_id,
        birth=row.birth,
        code=row.code,
        mult_adds=row.mult_adds,
        parent_id=row.parent_id,
        replica=row.replica,
        origin=row.origin,
        spent_seconds=sum(ended.device_seconds for ended in earlier),
        last_failure=earlier[-1].failure if earlier else None,
        params=row.params,
        activations=row.activations,
        memory_fallback=fallback,
        begins_after=last_attempt_to_ignore(earlier, fallback),
    )


def record_score(
    connection: Connection,
    token: LeaseToken,
    *,
    fitness: float,
    metrics: dict[str, float],
    objective: str = VALIDATION_ACCURACY,
    seed: int,
    provenance: Provenance,
    device_seconds: float,
    step_seconds: float | None = None,
    now: float,
    lineage_epochs: int | None = None,
    share_inherited: float | None = None,
    logit_distance: float | None = None,
    peak_bytes: int | None = None,
    memory_share: float | None = None,
    objectives: Sequence[float] | None = None,
    measurements: Sequence[Measurement] = (),
    reached: Rung | None = None,
) -> None:
    """End an attempt with a score. At a rung before the last one, the candidate then waits for a decision.

    `objective` is the metric that the search optimizes, and `objectives` the values of several objectives in the order
    of the spec. `memory_share` is the used memory as a share of the estimate by `domain.memory_estimate`; the search
    keeps the largest share. `reached` is the rung that the candidate was trained to, if its search has rungs. Raises
    `StaleLeaseError`.
    """
    edge, outcome, detail = Transition.SCORE, "scored", None
    columns: dict[str, Any] = {
        "lineage_epochs": lineage_epochs,
        "share_inherited": share_inherited,
        "logit_distance": logit_distance,
    }
    if reached is not None and not reached.is_last:
        edge, outcome = Transition.REACH_RUNG, AT_RUNG
        detail = {"rung": reached.number, "epochs": reached.epochs, "score": fitness}
    else:
        columns |= {"fitness": fitness, "accuracy": metrics.get(objective), "ended_at": now}
        columns |= {} if reached is None else {"rung": reached.number}
        columns |= {} if objectives is None else {"objectives": list(objectives)}
    search_id = _move(connection, edge, token, now, detail, **columns)
    end_attempt(
        connection,
        token,
        search_id=search_id,
        outcome=outcome,
        device_seconds=device_seconds,
        step_seconds=step_seconds,
        now=now,
        peak_bytes=peak_bytes,
    )
    if memory_share is not None:
        raise_memory_share(connection, search_id, memory_share)
    provenance_id = store_provenance(connection, provenance)
    if outcome != AT_RUNG:
        insert_scores(connection, token, metrics, seed=seed, provenance_id=provenance_id)
    insert_measurements(connection, token, measurements)
    if reached is not None:
        insert_rung(
            connection,
            token,
            reached,
            fitness=fitness,
            metrics=metrics,
            seed=seed,
            provenance_id=provenance_id,
            now=now,
        )
    if TEST_ACCURACY in metrics:
        detail = {"accuracy": metrics[TEST_ACCURACY]}
        record_attempt_event(connection, now, "tested", search_id, token, detail)


def promote(connection: Connection, waiting: WaitingRung, *, to_epochs: int, resumes: bool, now: float) -> None:
    """Let a candidate continue to the next rung. The candidate starts again from scratch unless `resumes` is true."""
    detail = {"rung": waiting.number + 1, "epochs": to_epochs, "start": "its checkpoint" if resumes else "scratch"}
    _move(connection, Transition.PROMOTE, waiting.token, now, detail)
    record_decision(connection, waiting, promoted=True)
    if not resumes:
        discard_progress(connection, waiting.candidate_id)


def stop_at_rung(connection: Connection, waiting: WaitingRung, now: float) -> None:
    """Stop a candidate at a rung; its score at this rung becomes final."""
    detail = {"rung": waiting.number, "epochs": waiting.epochs}
    columns = {"fitness": waiting.fitness, "rung": waiting.number, "ended_at": now}
    search_id = _move(connection, Transition.STOP, waiting.token, now, detail, **columns)
    record_decision(connection, waiting, promoted=False)
    count_as_scored(connection, waiting.token, search_id)
    insert_scores(connection, waiting.token, waiting.metrics, seed=waiting.seed, provenance_id=waiting.provenance_id)


_IMPORT_SCORE: Final = (
    update(candidate)
    .where(candidate.c.id == bindparam("imported"), PENDING)
    .values(
        state=ALLOWED_TRANSITIONS[Transition.IMPORT][1],
        attempt=1,
        **{name: bindparam(f"new_{name}") for name in ("fitness", "accuracy", "lineage_epochs", "ended_at")},
    )
)


def record_imported_scores(
    connection: Connection, search_id: int, scores: Sequence[ImportedScore], *, metric: str, worker_id: int, now: float
) -> None:
    """Give consecutive pending births of a search their imported scores."""
    numbers = candidate.c.birth.between(scores[0].birth, scores[-1].birth)
    births = select(candidate.c.id).where(candidate.c.search_id == search_id, numbers, PENDING)
    ids = connection.execute(births.order_by(candidate.c.birth)).scalars()
    imported = dict(zip(ids, scores, strict=True))
    changes = [
        {
            "imported": candidate_id,
            "new_fitness": one.fitness,
            "new_accuracy": one.value,
            "new_lineage_epochs": one.epochs,
            "new_ended_at": now,
        }
        for candidate_id, one in imported.items()
    ]
    connection.execute(_IMPORT_SCORE, changes)
    insert_scored_attempts(connection, list(imported), search_id=search_id, worker_id=worker_id, now=now)
    insert_imported_scores(connection, metric, imported)
    record_events(connection, now, Transition.IMPORT, search_id=search_id, candidate_ids=list(imported))


_FALLBACK_EVENTS: Final = {MemoryFallback.ALONE: "to_be_alone", MemoryFallback.HALVED: "to_be_halved"}


def record_failure(
    connection: Connection,
    token: LeaseToken,
    kind: FailureKind,
    message: str,
    *,
    traceback: str = "",
    device_seconds: float = 0.0,
    step_seconds: float | None = None,
    next_alone: bool = False,
    by_another: bool = False,
    now: float,
) -> CandidateState:
    """End an attempt without a score, and return the state that `domain.failure_policy` gives the candidate.

    Raises `StaleLeaseError`.
    """
    held, progressed = require_lease(connection, token), has_progressed(connection, token)
    message, traceback = to_storable(message), to_storable(traceback)
    decision = decide_after_failure(
        kind,
        progressed=progressed,
        own_failures=held.own_failures,
        lost_attempts=held.lost_attempts,
        memory_fallback=held.memory_fallback,
        next_alone=next_alone,
        by_another=by_another,
    )
    edge = Transition.FAIL if decision.gives_up else Transition.RECLAIM
    _move(connection, edge, token, now, {"failure": kind, "message": message}, **_columns_after(decision, now))
    end_attempt(
        connection,
        token,
        search_id=held.search_id,
        outcome="lost" if kind in NOT_ITS_OWN else "failed",
        device_seconds=device_seconds,
        step_seconds=step_seconds,
        now=now,
        failure=kind,
        message=message,
        traceback=traceback,
        progressed=progressed,
    )
    if decision.memory_fallback != held.memory_fallback:
        event = _FALLBACK_EVENTS[decision.memory_fallback]
        record_attempt_event(connection, now, event, held.search_id, token)
        if decision.memory_fallback == MemoryFallback.HALVED:
            discard_progress(connection, token.candidate)
    return ALLOWED_TRANSITIONS[edge][1]


def _columns_after(decision: FailureDecision, now: float) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "own_failures": decision.own_failures,
        "losses": decision.lost_attempts,
        "thrift": decision.memory_fallback,
    }
    if decision.gives_up:
        columns["ended_at"] = now
    else:
        columns["not_before"] = now + decision.backoff_seconds if decision.backoff_seconds else 0.0
    return columns


def release(
    connection: Connection, token: LeaseToken, device_seconds: float, now: float, *, step_seconds: float | None = None
) -> None:
    """Return an unfinished candidate to the state `pending`; its checkpoints are kept. Raises `StaleLeaseError`."""
    search_id = _move(connection, Transition.RELEASE, token, now)
    end_attempt(
        connection,
        token,
        search_id=search_id,
        outcome="released",
        device_seconds=device_seconds,
        step_seconds=step_seconds,
        now=now,
    )


def cancel(connection: Connection, candidate_id: int, now: float) -> None:
    """Cancel a pending or leased candidate; its lease token becomes stale. Raises `ConflictError`."""
    lock_searches(connection, select(candidate.c.search_id).where(candidate.c.id == candidate_id))
    if not _cancel(connection, candidate.c.id == candidate_id, now):
        raise ConflictError(f"cannot cancel candidate {candidate_id}: it is neither pending nor in training")


def cancel_unsettled(connection: Connection, search_id: int, now: float) -> int:
    """Cancel every pending or leased candidate of a search, and return their number."""
    return _cancel(connection, candidate.c.search_id == search_id, now)


def _cancel(connection: Connection, condition: ColumnElement[bool], now: float) -> int:
    """With one statement, cancel the candidates that meet a condition. End the attempts of candidates in training."""
    sources, target = ALLOWED_TRANSITIONS[Transition.CANCEL]
    cancelled = (
        update(candidate)
        .where(condition, candidate.c.state.in_(sources))
        .values(state=target, ended_at=now)
        .returning(candidate.c.birth, candidate.c.id, candidate.c.search_id)
    )
    rows = sorted(tuple(row) for row in connection.execute(cancelled))
    if not rows:
        return 0
    search_id = rows[0][2]
    births = {candidate_id: birth for birth, candidate_id, _ in rows}
    for token, device_share, step_seconds in list_leases(connection, search_id):
        if token.candidate in births:
            seconds = count_known_seconds(connection, token, step_seconds)
            end_attempt(
                connection,
                token,
                search_id=search_id,
                outcome="cancelled",
                device_seconds=seconds * device_share,
                step_seconds=seconds,
                now=now,
            )
    details = {candidate_id: {"birth": birth} for candidate_id, birth in births.items()}
    record_events(connection, now, Transition.CANCEL, search_id=search_id, candidate_ids=list(births), details=details)
    return len(rows)


@cache
def _guarded_update(edge: Transition, *columns: str) -> Update:
    sources, target = ALLOWED_TRANSITIONS[edge]
    return (
        update(candidate)
        .where(
            candidate.c.id == bindparam("token_candidate"),
            candidate.c.attempt == bindparam("token_attempt"),
            candidate.c.state.in_(sources),
        )
        .values(state=target, **{column: bindparam(f"new_{column}") for column in columns})
        .returning(candidate.c.search_id)
    )


def _move(
    connection: Connection,
    edge: Transition,
    token: LeaseToken,
    now: float,
    detail: dict[str, Any] | None = None,
    **changes: Any,
) -> int:
    """Apply a transition to a candidate, and set `changes` in its row. Return the id of the candidate's search."""
    values = {f"new_{column}": value for column, value in changes.items()}
    parameters = {"token_candidate": token.candidate, "token_attempt": token.attempt, **values}
    search_id = connection.execute(_guarded_update(edge, *changes), parameters).scalar()
    if search_id is None:
        raise stale_lease(token)
    record_attempt_event(connection, now, edge, search_id, token, detail)
    return int(search_id)
