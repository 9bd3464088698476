"""What a training leaves in the record before it is scored: epochs and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select

from eatnas_db.database.dialects import insert_new
from eatnas_db.events import record_event
from eatnas_db.leases import LeaseToken, require_lease
from eatnas_db.schema.trainings import checkpoint, epoch
from eatnas_protocol.messages import Checkpointed, EpochDone, Resumed


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """What a training took of its device in an epoch: bytes held, and the share in use where that is known."""

    memory_bytes: int
    load: float | None


_EPOCHS: Final = select(epoch).where(epoch.c.candidate_id == bindparam("of"))


_NEW_EPOCH: Final = insert(epoch)


_EPOCH_RESULTS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")


def record_epochs(
    connection: Connection,
    token: LeaseToken,
    reports: Sequence[EpochDone],
    now: float,
    uses: Mapping[int, ResourceUse] | None = None,
) -> None:
    """Write epochs; one that is there already must be equal, else the event `replay_differs` tells.

    `uses`: what they took of the device, by epoch, as far as known.
    """
    held = require_lease(connection, token)
    known = {row.number: row for row in connection.execute(_EPOCHS, {"of": token.candidate})}
    fresh = [report for report in reports if report.epoch not in known]
    if fresh:
        connection.execute(_NEW_EPOCH, [_epoch_row(token, report, (uses or {}).get(report.epoch)) for report in fresh])
    for report in reports:
        row = known.get(report.epoch)
        differing = [] if row is None else [k for k in _EPOCH_RESULTS if getattr(row, k) != getattr(report, k)]
        if differing:
            detail = {"epoch": report.epoch, "differing": differing}
            record_event(connection, now, "replay_differs", held.search_id, token.candidate, token.attempt, detail)


KEPT_CHECKPOINTS: Final = 2
"""The newest, and the one before it in case the newest turns out to be damaged."""


_NEW_CHECKPOINT: Final = insert_new(checkpoint)


_NEWEST: Final = (
    select(checkpoint.c.path)
    .where(checkpoint.c.candidate_id == bindparam("of"))
    .order_by(checkpoint.c.epoch.desc(), checkpoint.c.batch.desc(), checkpoint.c.attempt.desc())
    .limit(KEPT_CHECKPOINTS)
)


_OLDER: Final = (
    delete(checkpoint)
    .where(checkpoint.c.candidate_id == bindparam("of"), checkpoint.c.path.not_in(_NEWEST))
    .returning(checkpoint.c.path)
)


def record_checkpoint(connection: Connection, token: LeaseToken, report: Checkpointed, now: float) -> list[str]:
    """Write a checkpoint's row; the paths of files that are too old now come back, to be removed after the commit."""
    require_lease(connection, token)
    connection.execute(_NEW_CHECKPOINT, _checkpoint_row(token, report, now))
    return list(connection.execute(_OLDER, {"of": token.candidate}).scalars())


def record_resumption(connection: Connection, token: LeaseToken, report: Resumed, now: float) -> list[str]:
    """Write down where an attempt began; damaged files lose their rows, and their paths come back.

    A whole file without a row (its writer was killed between the two) is adopted.
    """
    held = require_lease(connection, token)

    def tell(kind: str, detail: dict[str, Any]) -> None:
        record_event(connection, now, kind, held.search_id, token.candidate, token.attempt, detail)

    of_candidate = checkpoint.c.candidate_id == token.candidate
    for path, reason in report.damaged.items():
        connection.execute(delete(checkpoint).where(of_candidate, checkpoint.c.path == path))
        tell("checkpoint_damaged", {"path": path, "message": reason})
    if report.path is None:
        tell("started_afresh", {})
        return list(report.damaged)
    adopted = connection.execute(
        _NEW_CHECKPOINT.returning(checkpoint.c.path),
        _checkpoint_row(token, report, now),
    ).first()
    if adopted is not None:
        tell("checkpoint_adopted", {"path": report.path})
    tell("resumed", {"epoch": report.epoch, "batch": report.batch})
    return list(report.damaged)


def record_restoration(connection: Connection, token: LeaseToken, ancestor_id: int, now: float) -> None:
    """Write down that an ancestor was trained again."""
    held = require_lease(connection, token)
    detail = {"ancestor": ancestor_id}
    record_event(connection, now, "ancestor_restored", held.search_id, token.candidate, token.attempt, detail)


def _checkpoint_row(token: LeaseToken, report: Checkpointed | Resumed, now: float) -> dict[str, Any]:
    return {
        "candidate_id": token.candidate,
        "path": report.path,
        "attempt": token.attempt,
        "epoch": report.epoch,
        "batch": report.batch,
        "digest": report.digest,
        "bytes": report.bytes,
        "created_at": now,
    }


def _epoch_row(token: LeaseToken, report: EpochDone, use: ResourceUse | None) -> dict[str, Any]:
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
        "memory_bytes": use and use.memory_bytes,
        "load": use and use.load,
    }


def has_progressed(connection: Connection, token: LeaseToken) -> bool:
    """Whether an attempt has brought its candidate further: an epoch or a checkpoint that is its own."""
    return any(
        connection.execute(
            select(table.c.candidate_id)
            .where(table.c.candidate_id == token.candidate, table.c.attempt == token.attempt)
            .limit(1)
        ).first()
        for table in (epoch, checkpoint)
    )
