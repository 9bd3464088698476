"""Leases: the token that guards every write of an attempt, heartbeats, and what a lease holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select, update

from eatnas_db.domain.states import CandidateState, MemoryFallback
from eatnas_db.errors import StaleLeaseError
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import lease


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """The fencing token: every write of an attempt repeats it."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class LeasedCandidate:
    """A candidate handed out for training; `spent_seconds` of a device went into its earlier attempts."""

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
    thrift: MemoryFallback = MemoryFallback.NONE


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """What may be leased for a device. `variable_bytes`: of `domain.memory`; None: whatever it takes."""

    alone: bool = True
    """Whether nothing else trains on it."""
    variable_bytes: int | None = None
    batch_size: int = 0


ANY_CANDIDATE: Final = LeaseFilter()


_NEW_RATE: Final = (
    update(lease)
    .where(lease.c.candidate_id == bindparam("of"), lease.c.attempt == bindparam("number"))
    .values(images_per_second=bindparam("rate"))
)


_LEASES_OF_SEARCH: Final = (
    select(func.count()).select_from(lease).join(candidate).where(candidate.c.search_id == bindparam("of"))
)


def count_leased(connection: Connection, search_id: int) -> int:
    """How many candidates of a search are in training, on all hosts; there are never many leases."""
    return int(connection.execute(_LEASES_OF_SEARCH, {"of": search_id}).scalar_one())


def beat(connection: Connection, host_id: int, rates: Mapping[LeaseToken, float] | None = None) -> None:
    """Show that this host lives: every lease it holds counts one up. `rates`: images a second of its trainings."""
    connection.execute(update(lease).where(lease.c.host_id == host_id).values(counter=lease.c.counter + 1))
    for token, rate in (rates or {}).items():
        connection.execute(_NEW_RATE, {"of": token.candidate, "number": token.attempt, "rate": rate})


_HELD: Final = select(candidate.c.search_id, candidate.c.own_failures, candidate.c.losses, candidate.c.thrift).where(
    candidate.c.id == bindparam("of"),
    candidate.c.attempt == bindparam("number"),
    candidate.c.state == CandidateState.LEASED,
)


def require_lease(connection: Connection, token: LeaseToken) -> Any:
    """Return the candidate that a lease holds. Raises `StaleLeaseError`."""
    row = connection.execute(_HELD, {"of": token.candidate, "number": token.attempt}).first()
    if row is None:
        raise StaleLeaseError(f"attempt {token.attempt} of candidate {token.candidate} no longer holds")
    return row
