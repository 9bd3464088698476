"""Query the candidates with at least one attempt. Each of these candidates becomes a run in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select, union

from eatnas_db.domain.objective import LATENCY
from eatnas_db.domain.states import CandidateState
from eatnas_db.schema.candidates import architecture, candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.trainings import attempt, epoch, lease, measurement


@dataclass(frozen=True, slots=True)
class AttemptedCandidate:
    """A candidate with at least one attempt. Times are Unix times in seconds.

    `attempt` is the number of the newest attempt, which ran on `device_name` (of `device_kind`) at `host_name`.
    `started_at` is the start of the first attempt, `device_seconds` the sum over all attempts, `epochs` the number of
    recorded epochs. `last_report_at` is the end of the last epoch, or the start of the newest attempt if no epoch has
    ended.
    """

    id: int
    search_id: int
    parent_id: int | None
    birth: int
    origin: str
    state: CandidateState
    attempt: int
    genotype: str
    digest: str
    params: int
    mult_adds: int
    fitness: float | None
    share_inherited: float | None
    lineage_epochs: int | None
    device_seconds: float | None
    epochs: int
    started_at: float
    last_report_at: float
    ended_at: float | None
    device_name: str
    device_kind: str
    host_name: str
    lease_host_id: int | None
    latency_ms: float | None = None
    """The median latency if latency is an objective of the search, otherwise None."""


def list_attempted_ids(connection: Connection, after_event: int | None) -> list[int]:
    """Return the ids of the attempted candidates that may have changed after this event, in ascending order.

    These are candidates with newer events, and candidates in training. Return all attempted ids if `after_event` is
    None.
    """
    if after_event is None:
        return list(connection.execute(_ALL_ATTEMPTED).scalars())
    changed = select(event.c.candidate_id).where(event.c.id > after_event, event.c.candidate_id.is_not(None))
    return sorted(connection.execute(union(changed, select(lease.c.candidate_id))).scalars())


def list_attempted(connection: Connection, ids: Sequence[int]) -> tuple[AttemptedCandidate, ...]:
    """Return the attempted candidates among `ids`, in order of id, so that parents precede their children."""
    rows = connection.execute(_ATTEMPTED.where(candidate.c.id.in_(ids))).mappings()
    return tuple(AttemptedCandidate(**{**row, "state": CandidateState(row["state"])}) for row in rows)


_ALL_ATTEMPTED: Final = select(candidate.c.id).where(candidate.c.attempt > 0).order_by(candidate.c.id)
_CANDIDATE_COLUMNS: Final = (
    *("id", "search_id", "parent_id", "birth", "origin", "state", "attempt", "params", "mult_adds"),
    *("fitness", "share_inherited", "lineage_epochs", "ended_at"),
)
_attempts = attempt.alias()
_of_attempts = _attempts.c.candidate_id == candidate.c.id
_of_epochs = epoch.c.candidate_id == candidate.c.id
_ATTEMPTED: Final = (
    select(
        *(candidate.c[name] for name in _CANDIDATE_COLUMNS),
        architecture.c.genotype,
        architecture.c.digest,
        select(func.min(_attempts.c.started_at)).where(_of_attempts).scalar_subquery().label("started_at"),
        select(func.sum(_attempts.c.device_seconds)).where(_of_attempts).scalar_subquery().label("device_seconds"),
        select(func.coalesce(func.max(epoch.c.number) + 1, 0)).where(_of_epochs).scalar_subquery().label("epochs"),
        func.coalesce(
            select(func.max(epoch.c.ended_at)).where(_of_epochs).scalar_subquery(), attempt.c.started_at
        ).label("last_report_at"),
        device.c.name.label("device_name"),
        device.c.kind.label("device_kind"),
        host.c.name.label("host_name"),
        lease.c.host_id.label("lease_host_id"),
        select(measurement.c.median)
        .where(measurement.c.candidate_id == candidate.c.id, measurement.c.metric == LATENCY)
        .scalar_subquery()
        .label("latency_ms"),
    )
    .join(architecture)
    .join(attempt, (attempt.c.candidate_id == candidate.c.id) & (attempt.c.number == candidate.c.attempt))
    .join(worker, worker.c.id == attempt.c.worker_id)
    .join(device, device.c.id == worker.c.device_id)
    .join(host, host.c.id == device.c.host_id)
    .outerjoin(lease, lease.c.candidate_id == candidate.c.id)
    .order_by(candidate.c.id)
)
