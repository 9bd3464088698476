"""The owner of a candidate's state: no other module writes it.

Each transition is one guarded UPDATE … RETURNING with its event in the same transaction; the guards are made
from the table in `domain.states`. The caller owns the transaction. A stale writer gets `StaleLeaseError`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from eatnas_db.database import insert_new
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.messages import Checkpointed, EpochDone
from eatnas_db.domain.space import Proposal
from eatnas_db.domain.states import EDGES, FailureKind, State, Transition, Wish
from eatnas_db.errors import ConflictError, StaleLeaseError
from eatnas_db.schema import (
    architecture,
    attempt,
    block,
    candidate,
    checkpoint,
    epoch,
    event,
    lease,
    mutation,
    provenance,
    score,
    search,
)

MAXIMUM_OWN_FAILURES: Final = 3
MAXIMUM_LOSSES: Final = 20
BACK_OFF_SECONDS: Final = 10.0
HOPELESS: Final = frozenset({FailureKind.DIVERGED, FailureKind.UNREADABLE_DATA})
"""Kinds that another try would only repeat."""


@dataclass(frozen=True, slots=True)
class Token:
    """The fencing token: every write of an attempt repeats it."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Leased:
    """A candidate handed out for training, and the checkpoint that it goes on from."""

    token: Token
    search_id: int
    birth: int
    code: str
    mult_adds: int
    resume: str | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Under what a score was made."""

    digest: str
    recipe: dict[str, Any]
    data_digest: str
    versions: dict[str, str]
    device: str
    cpu_capability: str


def submit(connection: Connection, search_id: int, birth: Birth, now: float) -> int | None:
    """Insert a decided birth as a pending candidate; None where another host was first with the same."""
    proposal = birth.proposal
    candidate_id = connection.execute(
        insert_new(candidate)
        .values(
            search_id=search_id,
            birth=birth.number,
            architecture_id=_architecture_id(connection, proposal),
            code=str(proposal.architecture),
            origin=birth.origin,
            parent_id=birth.parent_id,
            state=State.PENDING,
            params=proposal.cost.params,
            mult_adds=proposal.cost.mult_adds,
            created_at=now,
        )
        .returning(candidate.c.id)
    ).scalar()
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
        connection.execute(insert(mutation), changes)
    connection.execute(
        update(search).where(search.c.id == search_id, search.c.born == birth.number).values(born=birth.number + 1)
    )
    record_event(connection, now, "born", search_id, candidate_id)
    return int(candidate_id)


def lease_next(connection: Connection, search_id: int, *, host_id: int, worker_id: int, now: float) -> Leased | None:
    """Hand out the search's eldest pending candidate, or None."""
    eldest = (
        select(candidate.c.id)
        .where(
            candidate.c.search_id == search_id,
            candidate.c.state == State.PENDING,
            candidate.c.not_before <= now,
        )
        .order_by(candidate.c.birth)
        .limit(1)
        .scalar_subquery()
    )
    row = connection.execute(
        update(candidate)
        .where(candidate.c.id == eldest, candidate.c.state == State.PENDING)
        .values(state=EDGES[Transition.LEASE][1], attempt=candidate.c.attempt + 1)
        .returning(candidate.c.id, candidate.c.attempt, candidate.c.birth, candidate.c.code, candidate.c.mult_adds)
    ).first()
    if row is None:
        return None
    token = Token(row.id, row.attempt)
    connection.execute(
        insert(attempt).values(candidate_id=row.id, number=row.attempt, worker_id=worker_id, started_at=now)
    )
    connection.execute(insert(lease).values(candidate_id=row.id, attempt=row.attempt, host_id=host_id))
    record_event(connection, now, Transition.LEASE, search_id, row.id, row.attempt)
    resume = connection.execute(
        select(checkpoint.c.path)
        .where(checkpoint.c.candidate_id == row.id)
        .order_by(checkpoint.c.epoch.desc(), checkpoint.c.batch.desc(), checkpoint.c.attempt.desc())
        .limit(1)
    ).scalar()
    return Leased(token, search_id, row.birth, row.code, row.mult_adds, resume)


def beat(connection: Connection, host_id: int) -> None:
    """Show that this host lives: every lease it holds counts one up."""
    connection.execute(update(lease).where(lease.c.host_id == host_id).values(counter=lease.c.counter + 1))


def record_epochs(connection: Connection, token: Token, reports: Sequence[EpochDone], now: float) -> None:
    """Write epochs; one that is there already must be equal, else the event `replay_differs` tells."""
    _require_lease(connection, token)
    known = {
        row.number: row for row in connection.execute(select(epoch).where(epoch.c.candidate_id == token.candidate))
    }
    fresh = [report for report in reports if report.epoch not in known]
    if fresh:
        connection.execute(insert(epoch), [_epoch_row(token, report) for report in fresh])
    for report in reports:
        row = known.get(report.epoch)
        if row is not None and (row.train_loss, row.val_loss) != (report.train_loss, report.val_loss):
            _event_of(connection, now, "replay_differs", token, {"epoch": report.epoch})


def record_checkpoint(connection: Connection, token: Token, report: Checkpointed, now: float) -> list[str]:
    """Write a checkpoint's row; the older files' paths come back, to be removed after the commit."""
    _require_lease(connection, token)
    older = connection.execute(
        delete(checkpoint)
        .where(checkpoint.c.candidate_id == token.candidate, checkpoint.c.path != report.path)
        .returning(checkpoint.c.path)
    ).scalars()
    paths = list(older)
    connection.execute(
        insert_new(checkpoint).values(
            candidate_id=token.candidate,
            path=report.path,
            attempt=token.attempt,
            epoch=report.epoch,
            batch=report.batch,
            digest=report.digest,
            bytes=report.bytes,
            created_at=now,
        )
    )
    return paths


def record_score(
    connection: Connection,
    token: Token,
    *,
    fitness: float,
    metrics: dict[str, float],
    seed: int,
    circumstances: Provenance,
    device_seconds: float,
    now: float,
) -> None:
    """End an attempt with a score."""
    row = _move(connection, Transition.SCORE, token, now, fitness=fitness, ended_at=now)
    _end_attempt(connection, token, "scored", device_seconds, now, search_id=row.search_id)
    provenance_id = _provenance_id(connection, circumstances)
    connection.execute(
        insert(score),
        [
            {
                "candidate_id": token.candidate,
                "metric": metric,
                "seed": seed,
                "value": value,
                "attempt": token.attempt,
                "provenance_id": provenance_id,
            }
            for metric, value in metrics.items()
        ],
    )
    connection.execute(update(search).where(search.c.id == row.search_id).values(scored=search.c.scored + 1))


def record_failure(
    connection: Connection,
    token: Token,
    kind: FailureKind,
    message: str,
    *,
    traceback: str = "",
    device_seconds: float = 0.0,
    now: float,
) -> State:
    """End an attempt without a score; where the candidate goes is the kind's policy.

    An attempt counts against the candidate when it ended by its own doing; kills and reboots never do, but
    for 20 of them in a row.
    """
    held = _require_lease(connection, token)
    lost = kind == FailureKind.LOST
    failures = held.own_failures + (0 if lost else 1)
    losses = held.losses + 1 if lost else 0
    hopeless = kind in HOPELESS or failures >= MAXIMUM_OWN_FAILURES or losses >= MAXIMUM_LOSSES
    if hopeless:
        edge, changes = Transition.FAIL, {"ended_at": now}
    else:
        not_before = now + BACK_OFF_SECONDS * 2 ** (failures - 2) if failures >= 2 else 0.0
        edge, changes = Transition.TAKE_BACK, {"not_before": not_before}
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
        traceback=traceback,
    )
    return EDGES[edge][1]


def release(connection: Connection, token: Token, device_seconds: float, now: float) -> None:
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
        raise ConflictError(f"candidate {candidate_id} is not pending or in training: nothing to cancel")
    _end_attempt(connection, Token(candidate_id, row.attempt), "cancelled", 0.0, now, search_id=row.search_id)
    record_event(connection, now, Transition.CANCEL, row.search_id, candidate_id)


def retry(connection: Connection, candidate_id: int, now: float) -> None:
    """Make a failed candidate pending again, its failures forgiven."""
    sources, target = EDGES[Transition.RETRY]
    row = connection.execute(
        update(candidate)
        .where(candidate.c.id == candidate_id, candidate.c.state.in_(sources))
        .values(state=target, own_failures=0, losses=0, not_before=0, ended_at=None)
        .returning(candidate.c.search_id)
    ).first()
    if row is None:
        raise ConflictError(f"candidate {candidate_id} has not failed: nothing to retry")
    reopened = connection.execute(
        update(search)
        .where(search.c.id == row.search_id, search.c.wish != Wish.CANCELLED)
        .values(finished_at=None)
        .returning(search.c.id)
    ).first()
    if reopened is None:
        raise ConflictError(f"the search of candidate {candidate_id} was cancelled, which is final")
    record_event(connection, now, Transition.RETRY, row.search_id, candidate_id)


def take_back_all(connection: Connection, host_id: int, now: float) -> int:
    """A restarted supervisor takes back what its predecessor on this host held."""
    held = connection.execute(select(lease.c.candidate_id, lease.c.attempt).where(lease.c.host_id == host_id)).all()
    for row in held:
        token = Token(row.candidate_id, row.attempt)
        record_failure(connection, token, FailureKind.LOST, "the daemon was restarted", now=now)
    return len(held)


def set_membership(
    connection: Connection, candidate_id: int, *, joined: int | None = None, left: int | None = None
) -> None:
    """A candidate joins or leaves the living population at a step."""
    values = {key: value for key, value in (("joined", joined), ("left", left)) if value is not None}
    connection.execute(update(candidate).where(candidate.c.id == candidate_id).values(**values))


def record_event(
    connection: Connection,
    now: float,
    kind: str,
    search_id: int | None = None,
    candidate_id: int | None = None,
    attempt_number: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Write down what happened."""
    connection.execute(
        insert(event).values(
            at=now,
            kind=kind,
            search_id=search_id,
            candidate_id=candidate_id,
            attempt=attempt_number,
            detail=None if detail is None else json.dumps(detail),
        )
    )


def _epoch_row(token: Token, report: EpochDone) -> dict[str, Any]:
    return {
        "candidate_id": token.candidate,
        "number": report.epoch,
        "attempt": token.attempt,
        "train_loss": report.train_loss,
        "train_accuracy": report.train_accuracy,
        "val_loss": report.val_loss,
        "val_accuracy": report.val_accuracy,
        "learning_rate": report.learning_rate,
        "seconds": report.seconds,
        "ended_at": report.ended_at,
    }


def _require_lease(connection: Connection, token: Token) -> Any:
    row = connection.execute(
        select(candidate.c.search_id, candidate.c.own_failures, candidate.c.losses).where(
            candidate.c.id == token.candidate,
            candidate.c.attempt == token.attempt,
            candidate.c.state == State.LEASED,
        )
    ).first()
    if row is None:
        raise StaleLeaseError(f"attempt {token.attempt} of candidate {token.candidate} no longer holds")
    return row


def _move(
    connection: Connection,
    edge: Transition,
    token: Token,
    now: float,
    detail: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    sources, target = EDGES[edge]
    row = connection.execute(
        update(candidate)
        .where(
            candidate.c.id == token.candidate,
            candidate.c.attempt == token.attempt,
            candidate.c.state.in_(sources),
        )
        .values(state=target, **changes)
        .returning(candidate.c.search_id)
    ).first()
    if row is None:
        raise StaleLeaseError(f"attempt {token.attempt} of candidate {token.candidate} no longer holds")
    record_event(connection, now, edge, row.search_id, token.candidate, token.attempt, detail)
    return row


def _event_of(connection: Connection, now: float, kind: str, token: Token, detail: dict[str, Any]) -> None:
    row = _require_lease(connection, token)
    record_event(connection, now, kind, row.search_id, token.candidate, token.attempt, detail)


def _architecture_id(connection: Connection, proposal: Proposal) -> int:
    new = insert_new(architecture).values(digest=proposal.digest, genotype=str(proposal.effective))
    made = connection.execute(new.returning(architecture.c.id)).scalar()
    if made is None:
        known = select(architecture.c.id).where(architecture.c.digest == proposal.digest)
        return int(connection.execute(known).scalar_one())
    rows = [
        {"architecture_id": made, "position": position, **asdict(parts)}
        for position, parts in enumerate(proposal.effective, 1)
    ]
    connection.execute(insert(block), rows)
    return int(made)


def _end_attempt(
    connection: Connection,
    token: Token,
    outcome: str,
    device_seconds: float,
    now: float,
    *,
    search_id: int,
    **failure: Any,
) -> None:
    connection.execute(
        update(attempt)
        .where(
            attempt.c.candidate_id == token.candidate,
            attempt.c.number == token.attempt,
            attempt.c.ended_at.is_(None),
        )
        .values(outcome=outcome, ended_at=now, device_seconds=device_seconds, **failure)
    )
    connection.execute(delete(lease).where(lease.c.candidate_id == token.candidate))
    if device_seconds:
        connection.execute(
            update(search)
            .where(search.c.id == search_id)
            .values(device_seconds=search.c.device_seconds + device_seconds)
        )


def _provenance_id(connection: Connection, circumstances: Provenance) -> int:
    known = select(provenance.c.id).where(provenance.c.digest == circumstances.digest)
    found = connection.execute(known).scalar()
    if found is None:
        connection.execute(
            insert_new(provenance).values(
                digest=circumstances.digest,
                recipe=circumstances.recipe,
                data_digest=circumstances.data_digest,
                versions=circumstances.versions,
                device=circumstances.device,
                cpu_capability=circumstances.cpu_capability,
            )
        )
        found = connection.execute(known).scalar_one()
    return int(found)
