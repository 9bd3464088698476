"""Query the leases by host."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from eatnas_db.leases import LeaseToken
from eatnas_db.schema.hosts import host
from eatnas_db.schema.trainings import lease


@dataclass(frozen=True, slots=True)
class ForeignLease:
    """A lease of another host, which increments `counter` with each heartbeat."""

    token: LeaseToken
    counter: int
    host_id: int
    host_name: str


def list_own_leases(connection: Connection, host_id: int) -> frozenset[LeaseToken]:
    """Return the tokens of a host's leases."""
    query = select(lease.c.candidate_id, lease.c.attempt).where(lease.c.host_id == host_id)
    return frozenset(LeaseToken(*row) for row in connection.execute(query))


def list_foreign_leases(connection: Connection, host_id: int) -> tuple[ForeignLease, ...]:
    """Return the leases of all hosts except this one."""
    query = (
        select(lease.c.candidate_id, lease.c.attempt, lease.c.counter, lease.c.host_id, host.c.name)
        .join(host)
        .where(lease.c.host_id != host_id)
    )
    return tuple(
        ForeignLease(
            token=LeaseToken(row.candidate_id, row.attempt),
            counter=row.counter,
            host_id=row.host_id,
            host_name=row.name,
        )
        for row in connection.execute(query)
    )
