"""Query the candidates in training, and the searches that wait for them.

The queries read only indexes and small tables, so they suit frequent polling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, func, or_, select

from eatnas_db.domain.rungs import rungs_of
from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.schema.candidates import PENDING, candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, epoch, lease


@dataclass(frozen=True, slots=True)
class TrainingActivity:
    """A candidate in training, the slot that trains it, and its finished epochs.

    `device` is a UUID and `started_at` a Unix time in seconds.
    """

    host: str
    slot: int
    worker_pid: int
    candidate_id: int
    birth: int
    search: str
    attempt: int
    epochs_done: int
    epochs: int
    started_at: float
    device: str
    images_per_second: float | None


@dataclass(frozen=True, slots=True)
class IdleSlot:
    """A slot whose worker is alive and has no candidate."""

    host: str
    slot: int
    device: str


@dataclass(frozen=True, slots=True)
class BlockedSearch:
    """A search whose lag allows no further birth until the training of one of its candidates ends."""

    name: str
    in_training: int
    lag: int


def list_blocked_searches(connection: Connection) -> tuple[BlockedSearch, ...]:
    """Return the searches that leave workers idle because their births have a strict order."""
    workers = select(func.count()).where(worker.c.ended_at.is_(None)).scalar_subquery()
    leases = select(func.count()).select_from(lease).scalar_subquery()
    if not connection.execute(select(workers > leases)).scalar():
        return ()
    in_training = (
        select(func.count())
        .select_from(lease.join(candidate, candidate.c.id == lease.c.candidate_id))
        .where(candidate.c.search_id == search.c.id)
        .scalar_subquery()
    )
    has_pending = exists().where(candidate.c.search_id == search.c.id, PENDING)
    query = (
        select(search.c.name, in_training.label("in_training"), search.c.lag)
        .where(
            search.c.kind == SearchKind.EVOLUTION,
            search.c.wish == DesiredState.RUN,
            search.c.finished_at.is_(None),
            search.c.exhausted.is_(False),
            search.c.born < func.coalesce(search.c.ends_at, search.c.budget_candidates),
            or_(search.c.budget_device_seconds.is_(None), search.c.device_seconds < search.c.budget_device_seconds),
            ~has_pending,
        )
        .order_by(search.c.id)
    )
    rows = connection.execute(query).all()
    return tuple(BlockedSearch(row.name, row.in_training, row.lag) for row in rows if row.in_training)


def list_idle_slots(connection: Connection) -> tuple[IdleSlot, ...]:
    """Return the slots whose workers are alive and train nothing, sorted by host and slot."""
    leased = select(attempt.c.worker_id).join(
        lease, (lease.c.candidate_id == attempt.c.candidate_id) & (lease.c.attempt == attempt.c.number)
    )
    busy = set(connection.execute(leased).scalars())
    query = (
        select(worker.c.id, host.c.name, worker.c.slot, device.c.uuid)
        .join(device, device.c.id == worker.c.device_id)
        .join(host, host.c.id == device.c.host_id)
        .where(worker.c.ended_at.is_(None))
        .order_by(host.c.name, worker.c.slot)
    )
    return tuple(IdleSlot(*slot) for worker_id, *slot in connection.execute(query) if worker_id not in busy)


def list_training_activity(connection: Connection) -> tuple[TrainingActivity, ...]:
    """Return every candidate in training, sorted by host and slot."""
    # This is a separate statement, because a query planner might otherwise read all attempts of the record first.
    leased = connection.execute(select(lease.c.candidate_id)).scalars().all()
    epochs_done = select(func.coalesce(func.max(epoch.c.number) + 1, 0)).where(epoch.c.candidate_id == candidate.c.id)
    query = (
        select(
            host.c.name.label("host"),
            worker.c.slot,
            worker.c.pid,
            lease.c.candidate_id,
            candidate.c.birth,
            search.c.name.label("search"),
            lease.c.attempt,
            epochs_done.scalar_subquery().label("epochs_done"),
            search.c.spec,
            candidate.c.origin,
            attempt.c.started_at,
            device.c.uuid,
            lease.c.images_per_second,
        )
        .select_from(lease)
        .join(host, host.c.id == lease.c.host_id)
        .join(candidate, candidate.c.id == lease.c.candidate_id)
        .join(search, search.c.id == candidate.c.search_id)
        .join(attempt, (attempt.c.candidate_id == lease.c.candidate_id) & (attempt.c.number == lease.c.attempt))
        .join(worker, worker.c.id == attempt.c.worker_id)
        .join(device, device.c.id == worker.c.device_id)
        .where(candidate.c.id.in_(leased))
    )
    trainings = [
        TrainingActivity(
            host=row.host,
            slot=row.slot,
            worker_pid=row.pid,
            candidate_id=row.candidate_id,
            birth=row.birth,
            search=row.search,
            attempt=row.attempt,
            epochs_done=row.epochs_done,
            epochs=_epochs_of_training(row.spec, row.origin, row.epochs_done),
            started_at=row.started_at,
            device=row.uuid,
            images_per_second=row.images_per_second,
        )
        for row in connection.execute(query)
    ]
    return tuple(sorted(trainings, key=lambda training: (training.host, training.slot)))


def _epochs_of_training(spec: Mapping[str, Any], origin: str, done: int) -> int:
    """Return the number of epochs at which a training ends: the epochs of its recipe or of its next rung."""
    rungs = rungs_of(spec, origin)
    return int(spec["training"]["epochs"]) if rungs is None else rungs.next_epochs(done)
