"""Leases: the choice of the next candidate, heartbeats, and the token that guards every write of an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, func, or_, select, update

from eatnas_db.domain.failure_policy import MAX_BACKOFF_SECONDS
from eatnas_db.domain.integers import MAX_BIGINT
from eatnas_db.domain.memory_estimate import BYTES_PER_PARAMETER, bytes_per_value
from eatnas_db.domain.states import CandidateState, MemoryFallback
from eatnas_db.errors import StaleLeaseError
from eatnas_db.schema.candidates import PENDING, candidate
from eatnas_db.schema.trainings import lease


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """The fencing token of an attempt: every write of the attempt includes the token."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class LeasedCandidate:
    """A candidate that is leased for training. The candidate's earlier attempts took `spent_seconds` of device time.

    The training must not resume from checkpoints of attempts up to `begins_after`.
    """

    token: LeaseToken
    search_id: int
    birth: int
    code: str
    mult_adds: int
    parent_id: int | None
    replica: int
    origin: str
    spent_seconds: float
    last_failure: str | None
    params: int = 0
    activations: int = 0
    memory_fallback: MemoryFallback = MemoryFallback.NONE
    begins_after: int = 0


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """The conditions that a candidate must meet to be trained on a device."""

    alone: bool = True
    """Whether no other training uses the device."""
    variable_bytes: int | None = None
    """The largest `memory_estimate.variable_bytes` that fits, or None if there is no limit."""
    batch_size: int = 0
    precision: str = "float32"
    """The precision in which the device trains."""


ANY_CANDIDATE: Final = LeaseFilter()

# If `not_before` is further ahead than any back-off, the clock was set back after `not_before` was written.
_BACKOFF_IS_OVER: Final = or_(
    candidate.c.not_before <= bindparam("now"),
    candidate.c.not_before > bindparam("now") + MAX_BACKOFF_SECONDS,
)
NEXT_PENDING: Final = (
    select(candidate.c.id)
    .where(
        candidate.c.search_id == bindparam("of_search"),
        PENDING,
        _BACKOFF_IS_OVER,
        candidate.c.thrift <= bindparam("max_memory_fallback"),
        BYTES_PER_PARAMETER * candidate.c.params + candidate.c.activations * bindparam("bytes_per_activation")
        <= bindparam("max_variable_bytes"),
    )
    .order_by(candidate.c.birth)
    .limit(1)
    # Skip a candidate that another host is leasing now. SQLite, which has one writer at a time, omits the clause.
    .with_for_update(skip_locked=True, key_share=True)
    .scalar_subquery()
)
"""A query for the oldest pending candidate that meets a `LeaseFilter`. `next_pending_parameters` returns its
parameters.
"""


def next_pending_parameters(search_id: int, lease_filter: LeaseFilter, now: float) -> dict[str, float]:
    """Return the parameters of `NEXT_PENDING`."""
    max_bytes = lease_filter.variable_bytes
    return {
        "of_search": search_id,
        "now": now,
        "max_memory_fallback": MemoryFallback.HALVED if lease_filter.alone else MemoryFallback.NONE,
        "bytes_per_activation": bytes_per_value(lease_filter.precision) * lease_filter.batch_size,
        "max_variable_bytes": MAX_BIGINT if max_bytes is None else max_bytes,
    }


class HeldCandidate(NamedTuple):
    """The candidate that a lease holds."""

    search_id: int
    own_failures: int
    lost_attempts: int
    memory_fallback: MemoryFallback


_SELECT_HELD: Final = select(
    candidate.c.search_id, candidate.c.own_failures, candidate.c.losses, candidate.c.thrift
).where(
    candidate.c.id == bindparam("token_candidate"),
    candidate.c.attempt == bindparam("token_attempt"),
    candidate.c.state == CandidateState.LEASED,
)


def require_lease(connection: Connection, token: LeaseToken) -> HeldCandidate:
    """Return the candidate that a lease holds. Raises `StaleLeaseError` if the lease has ended."""
    parameters = {"token_candidate": token.candidate, "token_attempt": token.attempt}
    row = connection.execute(_SELECT_HELD, parameters).first()
    if row is None:
        raise stale_lease(token)
    return HeldCandidate(
        search_id=row.search_id,
        own_failures=row.own_failures,
        lost_attempts=row.losses,
        memory_fallback=MemoryFallback(row.thrift),
    )


def stale_lease(token: LeaseToken) -> StaleLeaseError:
    """Return the error for a write by an attempt that no longer holds its candidate."""
    return StaleLeaseError(f"the lease of candidate {token.candidate}, attempt {token.attempt}, has ended")


class LeaseTime(NamedTuple):
    """A lease, with its training's share of the device and seconds in steps, both as of the last heartbeat."""

    token: LeaseToken
    device_share: float
    step_seconds: float


_LIST_LEASES: Final = (
    select(lease.c.candidate_id, lease.c.attempt, lease.c.device_share, lease.c.step_seconds)
    .join(candidate)
    .where(candidate.c.search_id == bindparam("search_id"))
)


def list_leases(connection: Connection, search_id: int) -> list[LeaseTime]:
    """Return the leases of a search's candidates on all hosts."""
    rows = connection.execute(_LIST_LEASES, {"search_id": search_id})
    return [LeaseTime(LeaseToken(row.candidate_id, row.attempt), row.device_share, row.step_seconds) for row in rows]


class LeaseProgress(NamedTuple):
    """A training's images per second (None if unknown), its share of the device so far, and its seconds in steps."""

    images_per_second: float | None
    device_share: float
    step_seconds: float


_COUNT_PENDING: Final = (
    select(func.count())
    .select_from(candidate)
    .where(
        candidate.c.search_id == bindparam("search_id"),
        PENDING,
        _BACKOFF_IS_OVER,
        candidate.c.thrift <= bindparam("max_memory_fallback"),
    )
)


def count_pending(connection: Connection, search_id: int, now: float, *, alone: bool) -> int:
    """Count a search's pending candidates that may be leased now.

    The query is quick, because only a few candidates are pending.

    `alone` is true if no other training uses the device. Some candidates can be leased only if `alone` is true.
    """
    fallback = MemoryFallback.HALVED if alone else MemoryFallback.NONE
    parameters = {"search_id": search_id, "now": now, "max_memory_fallback": fallback}
    return int(connection.execute(_COUNT_PENDING, parameters).scalar_one())


_SET_PROGRESS: Final = (
    update(lease)
    .where(lease.c.candidate_id == bindparam("token_candidate"), lease.c.attempt == bindparam("token_attempt"))
    .values(
        images_per_second=bindparam("new_rate"),
        device_share=bindparam("new_share"),
        step_seconds=bindparam("new_seconds"),
    )
)


def record_heartbeat(
    connection: Connection, host_id: int, progress: Mapping[LeaseToken, LeaseProgress] | None = None
) -> None:
    """Increment the counter of every lease of a host, and record the progress of the host's trainings."""
    connection.execute(update(lease).where(lease.c.host_id == host_id).values(counter=lease.c.counter + 1))
    for token, (rate, share, seconds) in (progress or {}).items():
        parameters = {"token_candidate": token.candidate, "token_attempt": token.attempt}
        values = {"new_rate": rate, "new_share": share, "new_seconds": seconds}
        connection.execute(_SET_PROGRESS, {**parameters, **values})
