"""The owner of a candidate's state: no other module writes it.

Each transition is one guarded UPDATE … RETURNING with its event in the same transaction; the guards are made
from the table in `domain.states`. The caller owns the transaction. A stale writer gets `StaleLeaseError`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Update, bindparam, delete, func, insert, or_, select, update

from eatnas_db.database.dialects import insert_new
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.memory_estimate import BYTES_PER_MULT_ADD, BYTES_PER_PARAMETER
from eatnas_db.domain.objective import TEST_ACCURACY, VALIDATION_ACCURACY
from eatnas_db.domain.space import Proposal
from eatnas_db.domain.states import EDGES, CandidateState, DesiredState, FailureKind, MemoryFallback, Transition
from eatnas_db.errors import ConflictError, StaleLeaseError
from eatnas_db.events import record_event
from eatnas_db.leases import ANY_CANDIDATE, LeasedCandidate, LeaseFilter, LeaseToken, require_lease
from eatnas_db.provenance import Provenance, store_provenance
from eatnas_db.schema.candidates import PENDING, architecture, block, candidate, mutation
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, epoch, lease, score
from eatnas_db.training_record import has_progressed

MAXIMUM_OWN_FAILURES: Final = 3


MAXIMUM_INTEGER: Final = 2**63 - 1


MAXIMUM_LOSSES: Final = 20


BACK_OFF_SECONDS: Final = 10.0


LONGEST_BACK_OFF: Final = BACK_OFF_SECONDS * 2 ** (MAXIMUM_OWN_FAILURES - 2)


HOPELESS: Final = frozenset({FailureKind.DIVERGED, FailureKind.TIME_LIMIT, FailureKind.UNREADABLE_DATA})
"""Kinds that another try would only repeat."""


_THRIFTIER: Final = {MemoryFallback.NONE: "to_be_alone", MemoryFallback.ALONE: "to_be_halved"}


BLAMELESS: Final = frozenset({FailureKind.LOST, FailureKind.PARENT_MISSING})
"""Kinds that are not the candidate's own doing."""


_NEW_MUTATION: Final = insert(mutation)


_NEW_CANDIDATE: Final = insert_new(candidate).returning(candidate.c.id)


_BORN: Final = (
    update(search)
    .where(search.c.id == bindparam("of"), search.c.born == bindparam("number"))
    .values(born=search.c.born + 1)
)


def submit(connection: Connection, search_id: int, birth: Birth, now: float, replica: int = 0) -> int | None:
    """Insert a decided birth as a pending candidate; None where another host was first with the same."""
    proposal = birth.proposal
    values = {
        "search_id": search_id,
        "birth": birth.number,
        "architecture_id": store_architecture(connection, proposal),
        "code": str(proposal.architecture),
        "origin": birth.origin,
        "parent_id": birth.parent_id,
        "replica": replica,
        "state": CandidateState.PENDING,
        "params": proposal.cost.params,
        "mult_adds": proposal.cost.mult_adds,
        "created_at": now,
    }
    candidate_id = connection.execute(_NEW_CANDIDATE, values).scalar()
    if candidate_id is None:
        return None
    if proposal.changes:
        changes = [
            {
                "candidate_id": candidate_id,
                "ordinal": ordinal,
                "block": change.block,
                "primitive": change.primitive,
                "before": str(change.before),
                "after": str(change.after),
            }
            for ordinal, change in enumerate(proposal.changes)
        ]
        connection.execute(_NEW_MUTATION, changes)
    connection.execute(_BORN, {"of": search_id, "number": birth.number})
    record_event(connection, now, "born", search_id, candidate_id)
    return int(candidate_id)


_ELDEST: Final = (
    select(candidate.c.id)
    .where(
        candidate.c.search_id == bindparam("of"),
        PENDING,
        # A time too far off was written before the clock was set back.
        or_(
            candidate.c.not_before <= bindparam("now"),
            candidate.c.not_before > bindparam("now") + LONGEST_BACK_OFF,
        ),
        candidate.c.thrift <= bindparam("most_thrift"),
        BYTES_PER_PARAMETER * candidate.c.params + candidate.c.mult_adds * bindparam("bytes_per_mult_add")
        <= bindparam("most_bytes"),
    )
    .order_by(candidate.c.birth)
    .limit(1)
    # Not one that another host is taking at this moment; SQLite lets one write at a time, and leaves these words out.
    .with_for_update(skip_locked=True, key_share=True)
    .scalar_subquery()
)


_LEASE_ELDEST: Final = (
    update(candidate)
    .where(candidate.c.id == _ELDEST, PENDING)
    .values(state=EDGES[Transition.LEASE][1], attempt=candidate.c.attempt + 1)
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
        candidate.c.thrift,
    )
)


_NEW_ATTEMPT: Final = insert(attempt)


_NEW_LEASE: Final = insert(lease)


_EARLIER: Final = (
    select(attempt.c.device_seconds, attempt.c.failure)
    .where(attempt.c.candidate_id == bindparam("of"))
    .order_by(attempt.c.number)
)


def lease_next(
    connection: Connection,
    search_id: int,
    *,
    host_id: int,
    worker_id: int,
    now: float,
    room: LeaseFilter = ANY_CANDIDATE,
) -> LeasedCandidate | None:
    """Hand out the search's eldest pending candidate for which there is room, or None."""
    fits = {
        "most_thrift": MemoryFallback.HALVED if room.alone else MemoryFallback.NONE,
        "bytes_per_mult_add": BYTES_PER_MULT_ADD * room.batch_size,
        "most_bytes": MAXIMUM_INTEGER if room.variable_bytes is None else room.variable_bytes,
    }
    row = connection.execute(_LEASE_ELDEST, {"of": search_id, "now": now, **fits}).first()
    if row is None:
        return None
    number = row.attempt
    earlier = [] if number == 1 else connection.execute(_EARLIER, {"of": row.id}).all()
    connection.execute(
        _NEW_ATTEMPT, {"candidate_id": row.id, "number": number, "worker_id": worker_id, "started_at": now}
    )
    connection.execute(_NEW_LEASE, {"candidate_id": row.id, "attempt": number, "host_id": host_id})
    record_event(connection, now, Transition.LEASE, search_id, row.id, number)
    return LeasedCandidate(
        LeaseToken(row.id, number),
        search_id,
        row.birth,
        row.code,
        row.mult_adds,
        row.parent_id,
        row.replica,
        row.origin,
        spent_seconds=sum(one.device_seconds for one in earlier),
        last_failure=earlier[-1].failure if earlier else None,
        params=row.params,
        thrift=MemoryFallback(row.thrift),
    )


_NEW_SCORE: Final = insert(score)


_NEW_SHARE: Final = (
    update(search)
    .where(
        search.c.id == bindparam("of"),
        or_(search.c.memory_share.is_(None), search.c.memory_share < bindparam("share")),
    )
    .values(memory_share=bindparam("share"))
)


def record_score(
    connection: Connection,
    token: LeaseToken,
    *,
    fitness: float,
    metrics: dict[str, float],
    seed: int,
    circumstances: Provenance,
    device_seconds: float,
    now: float,
    lineage_epochs: int | None = None,
    share_inherited: float | None = None,
    logit_distance: float | None = None,
    peak_bytes: int | None = None,
    memory_share: float | None = None,
) -> None:
    """End an attempt with a score. `memory_share`: of what `domain.memory` foretold; the largest is kept."""
    row = _move(
        connection,
        Transition.SCORE,
        token,
        now,
        fitness=fitness,
        accuracy=metrics.get(VALIDATION_ACCURACY),
        ended_at=now,
        lineage_epochs=lineage_epochs,
        share_inherited=share_inherited,
        logit_distance=logit_distance,
    )
    measured = {} if peak_bytes is None else {"peak_bytes": peak_bytes}
    _end_attempt(connection, token, "scored", device_seconds, now, search_id=row.search_id, scored=1, **measured)
    if memory_share is not None:
        connection.execute(_NEW_SHARE, {"of": row.search_id, "share": memory_share})
    provenance_id = store_provenance(connection, circumstances)
    rows = [
        {
            "candidate_id": token.candidate,
            "metric": metric,
            "seed": seed,
            "value": value,
            "attempt": token.attempt,
            "provenance_id": provenance_id,
        }
        for metric, value in metrics.items()
    ]
    connection.execute(_NEW_SCORE, rows)
    if TEST_ACCURACY in metrics:
        detail = {"accuracy": metrics[TEST_ACCURACY]}
        record_event(connection, now, "tested", row.search_id, token.candidate, token.attempt, detail)


def record_failure(
    connection: Connection,
    token: LeaseToken,
    kind: FailureKind,
    message: str,
    *,
    traceback: str = "",
    device_seconds: float = 0.0,
    now: float,
) -> CandidateState:
    """End an attempt without a score; where the candidate goes is the kind's policy.

    An attempt counts against the candidate when it ended by its own doing without any progress; kills and
    reboots never do, but for 20 in a row without any. Where memory was out it is tried with more thrift, as long
    as there is any.
    """
    held = require_lease(connection, token)
    # PostgreSQL knows no such character.
    message = message.replace("\0", "\N{REPLACEMENT CHARACTER}")
    lost = kind in BLAMELESS
    progressed = has_progressed(connection, token)
    out_of_memory = kind == FailureKind.OUT_OF_MEMORY
    failures = held.own_failures + (0 if lost or progressed or out_of_memory else 1)
    losses = held.losses + 1 if lost and not progressed else 0
    most_thrifty = out_of_memory and held.thrift == MemoryFallback.HALVED
    hopeless = kind in HOPELESS or most_thrifty or failures >= MAXIMUM_OWN_FAILURES or losses >= MAXIMUM_LOSSES
    if hopeless:
        edge, changes = Transition.FAIL, {"ended_at": now}
    else:
        not_before = now + BACK_OFF_SECONDS * 2 ** (failures - 2) if failures >= 2 else 0.0
        edge, changes = Transition.TAKE_BACK, {"not_before": not_before}
    if out_of_memory and not most_thrifty:
        changes["thrift"] = held.thrift + 1
    detail = {"failure": kind, "message": message}
    row = _move(connection, edge, token, now, detail=detail, own_failures=failures, losses=losses, **changes)
    _end_attempt(
        connection,
        token,
        "lost" if lost else "failed",
        device_seconds,
        now,
        search_id=row.search_id,
        failure=kind,
        message=message,
        traceback=traceback.replace("\0", "\N{REPLACEMENT CHARACTER}"),
        progressed=progressed,
    )
    if out_of_memory and not hopeless:
        record_event(connection, now, _THRIFTIER[held.thrift], row.search_id, token.candidate, token.attempt)
    return EDGES[edge][1]


def release(connection: Connection, token: LeaseToken, device_seconds: float, now: float) -> None:
    """Give a candidate back unfinished; its checkpoint is kept."""
    row = _move(connection, Transition.RELEASE, token, now)
    _end_attempt(connection, token, "released", device_seconds, now, search_id=row.search_id)


def cancel(connection: Connection, candidate_id: int, now: float) -> None:
    """Cancel a pending or leased candidate; a worker's later reports are refused by its token."""
    sources, target = EDGES[Transition.CANCEL]
    row = connection.execute(
        update(candidate)
        .where(candidate.c.id == candidate_id, candidate.c.state.in_(sources))
        .values(state=target, ended_at=now)
        .returning(candidate.c.search_id, candidate.c.attempt)
    ).first()
    if row is None:
        raise ConflictError(
            f"candidate {candidate_id} is neither pending nor in training: it has ended, and its history stays"
        )
    _end_attempt(connection, LeaseToken(candidate_id, row.attempt), "cancelled", 0.0, now, search_id=row.search_id)
    record_event(connection, now, Transition.CANCEL, row.search_id, candidate_id)


def retry(connection: Connection, candidate_id: int, now: float) -> None:
    """Make a failed candidate pending again, its failures forgiven."""
    sources, target = EDGES[Transition.RETRY]
    row = connection.execute(
        update(candidate)
        .where(candidate.c.id == candidate_id, candidate.c.state.in_(sources))
        .values(state=target, own_failures=0, losses=0, thrift=0, not_before=0, ended_at=None)
        .returning(candidate.c.search_id)
    ).first()
    if row is None:
        raise ConflictError(
            f"candidate {candidate_id} has not failed; `eatnas-db query failures NAME` lists those that have"
        )
    reopened = connection.execute(
        update(search)
        .where(search.c.id == row.search_id, search.c.wish != DesiredState.CANCELLED)
        .values(finished_at=None)
        .returning(search.c.id)
    ).first()
    if reopened is None:
        raise ConflictError(f"the search of candidate {candidate_id} was cancelled, which is final")
    record_event(connection, now, Transition.RETRY, row.search_id, candidate_id)


def take_back_all(connection: Connection, host_id: int, now: float) -> int:
    """A restarted supervisor takes back what its predecessor on this host held."""
    held = connection.execute(
        delete(lease).where(lease.c.host_id == host_id).returning(lease.c.candidate_id, lease.c.attempt)
    ).all()
    for row in held:
        _take_back(connection, LeaseToken(*row), "the daemon was restarted", now)
    return len(held)


def expire(connection: Connection, token: LeaseToken, counter: int, why: str, now: float) -> bool:
    """Take a lease back from a host whose counter stood still; False where it has moved on, or is gone."""
    still = delete(lease).where(
        lease.c.candidate_id == token.candidate, lease.c.attempt == token.attempt, lease.c.counter == counter
    )
    if connection.execute(still.returning(lease.c.candidate_id)).first() is None:
        return False
    _take_back(connection, token, why, now)
    return True


def _take_back(connection: Connection, token: LeaseToken, why: str, now: float) -> None:
    trained = select(func.coalesce(func.sum(epoch.c.seconds), 0.0)).where(
        epoch.c.candidate_id == token.candidate, epoch.c.attempt == token.attempt
    )
    seconds = connection.execute(trained).scalar_one()
    record_failure(connection, token, FailureKind.LOST, why, device_seconds=seconds, now=now)


_JOINS: Final = update(candidate).where(candidate.c.id == bindparam("of")).values(joined=bindparam("step"))


_LEAVES: Final = update(candidate).where(candidate.c.id == bindparam("of")).values(left=bindparam("step"))


def join_population(connection: Connection, candidate_id: int, step: int) -> None:
    """A candidate lives from this step on."""
    connection.execute(_JOINS, {"of": candidate_id, "step": step})


def leave_population(connection: Connection, candidate_id: int, step: int) -> None:
    """A candidate lives no longer from this step on."""
    connection.execute(_LEAVES, {"of": candidate_id, "step": step})


@cache
def _moving(edge: Transition, *columns: str) -> Update:
    """The guarded UPDATE of an edge that sets these columns besides the state."""
    sources, target = EDGES[edge]
    return (
        update(candidate)
        .where(
            candidate.c.id == bindparam("of"),
            candidate.c.attempt == bindparam("number"),
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
) -> Any:
    values = {f"new_{column}": value for column, value in changes.items()}
    row = connection.execute(
        _moving(edge, *changes), {"of": token.candidate, "number": token.attempt, **values}
    ).first()
    if row is None:
        raise StaleLeaseError(f"attempt {token.attempt} of candidate {token.candidate} no longer holds")
    record_event(connection, now, edge, row.search_id, token.candidate, token.attempt, detail)
    return row


_NEW_ARCHITECTURE: Final = insert_new(architecture).returning(architecture.c.id)


_KNOWN_ARCHITECTURE: Final = select(architecture.c.id).where(architecture.c.digest == bindparam("digest"))


_NEW_BLOCK: Final = insert(block)


def store_architecture(connection: Connection, proposal: Proposal) -> int:
    """Insert an architecture that is not stored yet, and return its id."""
    values = {"digest": proposal.digest, "genotype": str(proposal.effective)}
    made = connection.execute(_NEW_ARCHITECTURE, values).scalar()
    if made is None:
        return int(connection.execute(_KNOWN_ARCHITECTURE, {"digest": proposal.digest}).scalar_one())
    rows = [
        {
            "architecture_id": made,
            "position": position,
            "op": parts.op,
            "kernel": parts.kernel,
            "skip": parts.skip,
            "depth": parts.depth,
            "width": parts.width,
        }
        for position, parts in enumerate(proposal.effective, 1)
    ]
    connection.execute(_NEW_BLOCK, rows)
    return int(made)


@cache
def _ending(*columns: str) -> Update:
    """The UPDATE that closes a living attempt and sets these columns."""
    return (
        update(attempt)
        .where(
            attempt.c.candidate_id == bindparam("of"),
            attempt.c.number == bindparam("try"),
            attempt.c.ended_at.is_(None),
        )
        .values(**{column: bindparam(f"new_{column}") for column in columns})
    )


_DROP_LEASE: Final = delete(lease).where(lease.c.candidate_id == bindparam("of"))


_COUNT: Final = (
    update(search)
    .where(search.c.id == bindparam("of"))
    .values(
        device_seconds=search.c.device_seconds + bindparam("seconds"),
        scored=search.c.scored + bindparam("more"),
    )
)


def _end_attempt(
    connection: Connection,
    token: LeaseToken,
    outcome: str,
    device_seconds: float,
    now: float,
    *,
    search_id: int,
    scored: int = 0,
    **failure: Any,
) -> None:
    columns = {"outcome": outcome, "ended_at": now, "device_seconds": device_seconds, **failure}
    values = {f"new_{column}": value for column, value in columns.items()}
    connection.execute(_ending(*columns), {"of": token.candidate, "try": token.attempt, **values})
    connection.execute(_DROP_LEASE, {"of": token.candidate})
    if device_seconds or scored:
        connection.execute(_COUNT, {"of": search_id, "seconds": device_seconds, "more": scored})
