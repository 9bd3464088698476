"""Query the candidates in training. The queries read by index, so they can be repeated every second."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, exists, func, or_, select

from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.schema.candidates import PENDING, candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, epoch, lease


@dataclass(frozen=True, slots=True)
class TrainingActivity:
    """A candidate in training: where, in which attempt, and how many of its epochs are done."""

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
class BlockedSearch:
    """A search of which nothing more may begin before something in training ends, and its lag, which says so."""

    name: str
    in_training: int
    lag: int


def list_blocked_searches(connection: Connection) -> tuple[BlockedSearch, ...]:
    """Searches that leave workers idle by their strict order; none where no worker is idle."""
    workers = select(func.count()).where(worker.c.ended_at.is_(None)).scalar_subquery()
    leases = select(func.count()).select_from(lease).scalar_subquery()
    if not connection.execute(select(workers > leases)).scalar():
        return ()
    held = (
        select(func.count())
        .select_from(lease.join(candidate, candidate.c.id == lease.c.candidate_id))
        .where(candidate.c.search_id == search.c.id)
        .scalar_subquery()
    )
    pending = exists().where(candidate.c.search_id == search.c.id, PENDING)
    query = select(search, held.label("held")).where(
        search.c.kind == SearchKind.EVOLUTION,
        search.c.wish == DesiredState.RUN,
        search.c.finished_at.is_(None),
        search.c.exhausted.is_(False),
        search.c.born < func.coalesce(search.c.ends_at, search.c.budget_candidates),
        or_(search.c.budget_device_seconds.is_(None), search.c.device_seconds < search.c.budget_device_seconds),
        ~pending,
    )
    rows = connection.execute(query.order_by(search.c.id)).all()
    return tuple(BlockedSearch(row.name, row.held, row.lag) for row in rows if row.held)


def list_training_activity(connection: Connection) -> tuple[TrainingActivity, ...]:
    """Every candidate in training, by host and slot."""
    # First the few that are held: left to itself a planner may begin with all attempts there ever were.
    held = connection.execute(select(lease.c.candidate_id)).scalars().all()
    done = select(func.coalesce(func.max(epoch.c.number) + 1, 0)).where(epoch.c.candidate_id == candidate.c.id)
    query = (
        select(
            host.c.name.label("host"),
            worker.c.slot,
            worker.c.pid.label("worker_pid"),
            lease.c.candidate_id,
            candidate.c.birth,
            search.c.name.label("search"),
            lease.c.attempt,
            done.scalar_subquery().label("epochs_done"),
            search.c.spec,
            attempt.c.started_at,
            device.c.uuid.label("device"),
            lease.c.images_per_second,
        )
        .select_from(lease)
        .join(host, host.c.id == lease.c.host_id)
        .join(candidate, candidate.c.id == lease.c.candidate_id)
        .join(search, search.c.id == candidate.c.search_id)
        .join(attempt, (attempt.c.candidate_id == lease.c.candidate_id) & (attempt.c.number == lease.c.attempt))
        .join(worker, worker.c.id == attempt.c.worker_id)
        .join(device, device.c.id == worker.c.device_id)
        .where(candidate.c.id.in_(held))
    )
    found = []
    for row in connection.execute(query):
        fields = dict(row._mapping)
        fields["epochs"] = fields.pop("spec")["training"]["epochs"]
        found.append(TrainingActivity(**fields))
    return tuple(sorted(found, key=lambda work: (work.host, work.slot)))
