"""End the leases of hosts whose daemon is gone."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, delete

from eatnas_db.attempts import count_known_seconds
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.domain.states import FailureKind
from eatnas_db.leases import LeaseTime, LeaseToken
from eatnas_db.schema.trainings import lease
from eatnas_db.transitions import record_failure

_LEASE_TIME: Final = (lease.c.candidate_id, lease.c.attempt, lease.c.device_share, lease.c.step_seconds)


def reclaim_leases(connection: Connection, host_id: int, now: float) -> int:
    """End the leases that an earlier daemon of this host left behind. Return their number.

    On SQLite, end all leases: the caller is the only daemon, and the previous daemon may have had another host name,
    for example in another container.
    """
    left = delete(lease).where(lease.c.host_id == host_id) if is_postgresql(connection) else delete(lease)
    rows = connection.execute(left.returning(*_LEASE_TIME)).all()
    for row in rows:
        _record_lost(connection, _lease_time(*row), "the daemon was restarted", now)
    return len(rows)


def expire_lease(connection: Connection, token: LeaseToken, *, counter: int, reason: str, now: float) -> bool:
    """End a lease if its heartbeat counter is still `counter`.

    Return False if the counter has advanced or the lease is gone.
    """
    unchanged = delete(lease).where(
        lease.c.candidate_id == token.candidate, lease.c.attempt == token.attempt, lease.c.counter == counter
    )
    row = connection.execute(unchanged.returning(*_LEASE_TIME)).first()
    if row is None:
        return False
    _record_lost(connection, _lease_time(*row), reason, now)
    return True


def _lease_time(candidate_id: int, number: int, device_share: float, step_seconds: float) -> LeaseTime:
    return LeaseTime(LeaseToken(candidate_id, number), device_share, step_seconds)


def _record_lost(connection: Connection, held: LeaseTime, reason: str, now: float) -> None:
    seconds = count_known_seconds(connection, held.token, held.step_seconds)
    record_failure(
        connection,
        held.token,
        FailureKind.LOST,
        reason,
        device_seconds=seconds * held.device_share,
        step_seconds=seconds,
        now=now,
    )
