"""End the leases of hosts whose daemon is gone."""

from __future__ import annotations

from sqlalchemy import Connection, delete

from eatnas_db.attempts import sum_epoch_seconds
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.domain.states import FailureKind
from eatnas_db.leases import LeaseToken
from eatnas_db.schema.trainings import lease
from eatnas_db.transitions import record_failure


def reclaim_leases(connection: Connection, host_id: int, now: float) -> int:
    """End the leases that an earlier daemon of this host has left. Return their number.

    On SQLite, end all leases: the caller is the only daemon, and the previous daemon may have had another host name,
    for example in another container.
    """
    left = delete(lease).where(lease.c.host_id == host_id) if is_postgresql(connection) else delete(lease)
    rows = connection.execute(left.returning(lease.c.candidate_id, lease.c.attempt, lease.c.device_share)).all()
    for row in rows:
        token = LeaseToken(row.candidate_id, row.attempt)
        _record_lost(connection, token, row.device_share, "the daemon was restarted", now)
    return len(rows)


def expire_lease(connection: Connection, token: LeaseToken, *, counter: int, reason: str, now: float) -> bool:
    """End a lease if its heartbeat counter is still `counter`.

    Return False if the counter has advanced or the lease is gone.
    """
    unchanged = delete(lease).where(
        lease.c.candidate_id == token.candidate, lease.c.attempt == token.attempt, lease.c.counter == counter
    )
    share = connection.execute(unchanged.returning(lease.c.device_share)).scalar()
    if share is None:
        return False
    _record_lost(connection, token, share, reason, now)
    return True


def _record_lost(connection: Connection, token: LeaseToken, device_share: float, reason: str, now: float) -> None:
    seconds = sum_epoch_seconds(connection, token)
    record_failure(
        connection,
        token,
        FailureKind.LOST,
        reason,
        device_seconds=seconds * device_share,
        step_seconds=seconds,
        now=now,
    )
