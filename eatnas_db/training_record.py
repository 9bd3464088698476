"""Record the progress of a training: epochs, checkpoints and resumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select

from eatnas_db.artifact_paths import is_artifact_path
from eatnas_db.attempts import record_attempt_event
from eatnas_db.checkpoint_files import KEPT_CHECKPOINTS
from eatnas_db.database.dialects import insert_or_ignore
from eatnas_db.leases import LeaseToken, require_lease
from eatnas_db.schema.trainings import checkpoint, epoch


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """The use of the device at the end of an epoch: bytes held, and the share in use (None if unknown)."""

    memory_bytes: int
    load: float | None


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The results of one epoch; `number` counts from 0. A final model has no validation results.

    `ended_at` is the time in seconds since 1970 on the worker's clock. `resource_use` is None if it was not measured.
    `metrics` are the further metrics of a user's own training function; None with the built-in training.
    """

    number: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float | None
    seconds: float
    ended_at: float
    resource_use: ResourceUse | None = None
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A complete checkpoint file. Training resumes at `batch` of `epoch`, both counted from 0.

    `path` is relative to the artifacts folder; `digest` is the SHA-256 of the content, `bytes` the size of the file.
    Raises `ValueError` if the path leads out of the folder.
    """

    path: str
    digest: str
    bytes: int
    epoch: int
    batch: int

    def __post_init__(self) -> None:
        if not is_artifact_path(self.path):
            raise ValueError(f"the checkpoint path {self.path!r} leads out of the artifacts folder")


@dataclass(frozen=True, slots=True)
class ResumptionRecord:
    """The point from which an attempt resumes; `checkpoint` is None if the attempt starts from scratch although files
    exist.

    `damaged` maps the paths of unusable files, relative to the artifacts folder, to their errors.
    """

    checkpoint: CheckpointRecord | None
    damaged: Mapping[str, str]


_SELECT_EPOCHS: Final = select(epoch).where(epoch.c.candidate_id == bindparam("candidate_id"))
_INSERT_EPOCH: Final = insert(epoch)
_EPOCH_RESULTS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "metrics")


def record_epochs(connection: Connection, token: LeaseToken, epochs: Sequence[EpochRecord], now: float) -> None:
    """Insert epochs. If an epoch is already recorded with different results, record the event `replay_differs`.

    Raises `StaleLeaseError`.
    """
    held = require_lease(connection, token)
    rows = connection.execute(_SELECT_EPOCHS, {"candidate_id": token.candidate})
    recorded = {row.number: row for row in rows}
    new_rows = [_epoch_row(token, record) for record in epochs if record.number not in recorded]
    if new_rows:
        connection.execute(_INSERT_EPOCH, new_rows)
    for record in epochs:
        row = recorded.get(record.number)
        differing = [] if row is None else [k for k in _EPOCH_RESULTS if getattr(row, k) != getattr(record, k)]
        if differing:
            detail = {"epoch": record.number, "differing": differing}
            record_attempt_event(connection, now, "replay_differs", held.search_id, token, detail)


_INSERT_CHECKPOINT: Final = insert_or_ignore(checkpoint)
_SELECT_NEWEST: Final = (
    select(checkpoint.c.path)
    .where(checkpoint.c.candidate_id == bindparam("candidate_id"))
    .order_by(checkpoint.c.epoch.desc(), checkpoint.c.batch.desc(), checkpoint.c.attempt.desc())
    .limit(KEPT_CHECKPOINTS)
)
_DELETE_OLDER: Final = (
    delete(checkpoint)
    .where(checkpoint.c.candidate_id == bindparam("candidate_id"), checkpoint.c.path.not_in(_SELECT_NEWEST))
    .returning(checkpoint.c.path)
)


def record_checkpoint(connection: Connection, token: LeaseToken, record: CheckpointRecord, now: float) -> list[str]:
    """Insert a checkpoint and delete the rows of older checkpoints. Return the paths to remove after the commit.

    Raises `StaleLeaseError`.
    """
    require_lease(connection, token)
    connection.execute(_INSERT_CHECKPOINT, _checkpoint_row(token, record, now))
    return list(connection.execute(_DELETE_OLDER, {"candidate_id": token.candidate}).scalars())


def record_resumption(connection: Connection, token: LeaseToken, record: ResumptionRecord, now: float) -> list[str]:
    """Record the point where an attempt begins. Delete the rows of damaged files and return their paths.

    If the checkpoint has no row because a worker or the daemon was killed, insert the row. Raises `StaleLeaseError`.
    """
    held = require_lease(connection, token)

    def log_event(kind: str, detail: dict[str, Any]) -> None:
        record_attempt_event(connection, now, kind, held.search_id, token, detail)

    of_candidate = checkpoint.c.candidate_id == token.candidate
    for path, reason in record.damaged.items():
        connection.execute(delete(checkpoint).where(of_candidate, checkpoint.c.path == path))
        log_event("checkpoint_damaged", {"path": path, "message": reason})
    used = record.checkpoint
    if used is None:
        log_event("started_afresh", {})
        return list(record.damaged)
    adopted = connection.execute(
        _INSERT_CHECKPOINT.returning(checkpoint.c.path), _checkpoint_row(token, used, now)
    ).first()
    if adopted is not None:
        log_event("checkpoint_adopted", {"path": used.path})
    log_event("resumed", {"epoch": used.epoch, "batch": used.batch})
    return list(record.damaged)


def record_restoration(connection: Connection, token: LeaseToken, ancestor_id: int, now: float) -> None:
    """Record that an ancestor was trained again, because its weights were missing. Raises `StaleLeaseError`."""
    held = require_lease(connection, token)
    detail = {"ancestor": ancestor_id}
    record_attempt_event(connection, now, "ancestor_restored", held.search_id, token, detail)


def _checkpoint_row(token: LeaseToken, record: CheckpointRecord, now: float) -> dict[str, Any]:
    return {
        "candidate_id": token.candidate,
        "path": record.path,
        "attempt": token.attempt,
        "epoch": record.epoch,
        "batch": record.batch,
        "digest": record.digest,
        "bytes": record.bytes,
        "created_at": now,
    }


def _epoch_row(token: LeaseToken, record: EpochRecord) -> dict[str, Any]:
    use = record.resource_use
    return {
        "candidate_id": token.candidate,
        "number": record.number,
        "attempt": token.attempt,
        "train_loss": record.train_loss,
        "train_accuracy": record.train_accuracy,
        "val_loss": record.val_loss,
        "val_accuracy": record.val_accuracy,
        "learning_rate": record.learning_rate,
        "seconds": record.seconds,
        "ended_at": record.ended_at,
        "memory_bytes": None if use is None else use.memory_bytes,
        "load": None if use is None else use.load,
        "metrics": None if record.metrics is None else dict(record.metrics),
    }
