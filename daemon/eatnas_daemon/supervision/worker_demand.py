"""Count the workers that the open searches can use now, for a scheduler that follows the demand."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_daemon.supervision.faults import faults_of_search
from eatnas_daemon.supervision.search_holds import SearchHolds
from eatnas_daemon.workers.slots import Slot
from eatnas_db import leases
from eatnas_db.queries.leases import list_own_leases
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.searches.open_searches import read_leasable_searches

MAX_SEARCHES: Final = 16
"""The maximum number of searches whose waiting candidates are counted. Searches of higher priority come first."""


class WorkerDemand:
    """Counts the trainings that are running on this host, and the candidates that are waiting for a worker.

    If the scheduler does not follow the demand, nothing is read from the database.
    """

    def __init__(
        self,
        host_id: int,
        slots: list[Slot],
        scheduler: WorkerScheduler,
        holds: SearchHolds,
        only: str | None,
        interval_seconds: float,
    ) -> None:
        self._host_id, self._slots, self._scheduler = host_id, slots, scheduler
        self._holds, self._only, self._interval_seconds = holds, only, interval_seconds
        self._update_at = 0.0

    def update(self, connection: Connection, now: float, wall: float) -> None:
        """Pass the current demand to the scheduler if an update is due. `now` is monotonic; `wall` is Unix time."""
        if not self._scheduler.follows_demand or now < self._update_at:
            return
        self._update_at = now + self._interval_seconds
        waiting = 0
        for row in read_leasable_searches(connection, self._only, wall, limit=MAX_SEARCHES):
            if self._holds.allows_advance(row.id, wall):
                with faults_of_search(connection, row.id):
                    row.require_whole()
                    waiting += self._count_waiting(connection, row, wall)
        self._scheduler.set_demand(self._count_running(connection) + waiting)

    def _count_running(self, connection: Connection) -> int:
        """Return the number of slots that trainings take.

        A training on several devices takes one slot for each process.
        """
        trainings = [slot.training for slot in self._slots if slot.training is not None]
        starting = max(0, len(list_own_leases(connection, self._host_id)) - len(trainings))
        return starting + sum(int(training.assignment.message.training.get("devices", 1)) for training in trainings)

    def _count_waiting(self, connection: Connection, row: SearchRecord, wall: float) -> int:
        pending = leases.count_pending(connection, row.id, wall, alone=True)
        waiting = self._holds.limit_leases(connection, row, pending, wall)
        return waiting * int(row.spec["training"].get("devices", 1))
