"""Find stale leases: leases that this host has lost, and leases of dead hosts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from eatnas_daemon.workers.slots import Slot
from eatnas_db import hosts, transitions
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.leases import LeaseToken
from eatnas_db.lost_leases import expire_lease
from eatnas_db.queries.hosts import HOST_LOST
from eatnas_db.queries.leases import ForeignLease, list_foreign_leases, list_own_leases


class LeaseFencing:
    """Compares the leases in the database with the trainings of this host, and watches the leases of other hosts."""

    def __init__(self, host_id: int, slots: list[Slot], lease_seconds: float, now: float) -> None:
        self._host_id, self._slots, self._lease_seconds = host_id, slots, lease_seconds
        self._silent: dict[LeaseToken, tuple[int, float]] = {}
        """For each lease of another host: its counter, and the seconds for which the counter has not changed."""
        self._observed_at = now

    def stale_slots(self, connection: Connection, wall: float) -> list[Slot]:
        """Return the slots that train without a lease, because the candidate was cancelled or this host was presumed
        dead.

        Also releases leases without a slot. Such leases exist if the answer to the commit that created them was lost.
        """
        leased = list_own_leases(connection, self._host_id)
        trainings = [(slot, slot.training.token) for slot in self._slots if slot.training is not None]
        for token in leased - {token for _, token in trainings}:
            transitions.release(connection, token, 0.0, wall)
        return [slot for slot, token in trainings if token not in leased]

    def find_dead_leases(self, connection: Connection, now: float) -> list[ForeignLease]:
        """Return the leases of other hosts whose counters have not changed for the duration of a lease. At most half
        this duration counts between two calls, because this host may have been suspended.
        """
        observed = min(now - self._observed_at, self._lease_seconds / 2)
        self._observed_at = now
        if not is_postgresql(connection):
            return []
        silent: dict[LeaseToken, tuple[int, float]] = {}
        dead: list[ForeignLease] = []
        for lease in list_foreign_leases(connection, self._host_id):
            counter, seconds = self._silent.get(lease.token, (None, 0.0))
            seconds = seconds + observed if counter == lease.counter else 0.0
            silent[lease.token] = (lease.counter, seconds)
            if seconds >= self._lease_seconds:
                dead.append(lease)
        self._silent = silent
        return dead

    def expire_leases(self, connection: Connection, dead: Sequence[ForeignLease], wall: float) -> bool:
        """End the dead leases whose counters still have not changed. Return whether there were any such leases."""
        lost: set[int] = set()
        for lease in dead:
            reason = f"host {lease.host_name} sends no heartbeats"
            if expire_lease(connection, lease.token, counter=lease.counter, reason=reason, now=wall):
                lost.add(lease.host_id)
        for host_id in sorted(lost):
            hosts.record_lost_workers(connection, host_id, HOST_LOST, wall)
        return bool(lost)
