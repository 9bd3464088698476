"""Advance searches and lease their pending candidates for idle workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection

from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_daemon.supervision.faults import faults_of_search
from eatnas_daemon.supervision.search_holds import SearchHolds
from eatnas_daemon.workers.assignments import Assignment, create_assignment
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.slots_for_ranks import split_for_training, without_taken
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db import leases, transitions
from eatnas_db.domain.arithmetic import arithmetic_of
from eatnas_db.domain.memory_estimate import max_variable_bytes
from eatnas_db.domain.states import DesiredState
from eatnas_db.leases import ANY_CANDIDATE, LeaseFilter
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.checkpoint_retention import CheckpointRetention
from eatnas_db.searches.open_searches import (
    has_running_search,
    list_active_searches,
    list_leasable_searches,
    lock_active_searches,
)
from eatnas_db.searches.prepared_births import PreparedBirths
from eatnas_db.settings import Settings
from eatnas_protocol.messages import Cancel, Release

PAGE: Final = 16
"""The number of searches that are read at a time to lease their candidates."""


@dataclass(slots=True)
class Dispatch:
    """The decisions of a dispatcher in a transaction; `finished` is true if the supervisor's only search has ended."""

    finished: bool
    assigned: list[tuple[Slot, Assignment]] = field(default_factory=list)
    obsolete_files: list[str] = field(default_factory=list)

    def assigned_on(self, slot: Slot) -> list[Assignment]:
        """Return the new assignments on the device of a slot."""
        return [assignment for other, assignment in self.assigned if other.device.uuid == slot.device.uuid]


class Dispatcher:
    """Leases candidates for idle workers, and decides which trainings must stop.

    `only` is the name of the one search to work on, or None for all searches.
    """

    def __init__(
        self,
        settings: Settings,
        host_id: int,
        slots: list[Slot],
        gpu_scheduler: WorkerScheduler,
        timeouts: Timeouts,
        only: str | None,
        holds: SearchHolds,
        births: PreparedBirths,
    ) -> None:
        self._settings, self._host_id, self._slots, self._holds = settings, host_id, slots, holds
        self._gpu_scheduler, self._timeouts, self._only = gpu_scheduler, timeouts, only
        self._births = births
        self._cleanup_at = self._now = 0.0
        self._retention = CheckpointRetention()
        self._locked: frozenset[int] | None = frozenset()

    def lock_searches(self, connection: Connection, wall: float, *, everything: bool) -> None:
        """Lock the searches that this transaction is going to change or, with `everything`, all open searches."""
        workers = [slot.worker for slot in self._slots if slot.worker is not None]
        may_lease = sum(worker.idle or bool(worker.reports) for worker in workers)
        self._locked = lock_active_searches(
            connection,
            self._host_id,
            self._only,
            held=self._holds.with_errors(),
            to_lease=may_lease,
            everything=everything,
            now=wall,
        )

    def before_repetition(self) -> None:
        """Forget the data that the rolled-back transaction has read, before it is repeated."""
        self._retention.forget()

    def dispatch(self, connection: Connection, now: float, wall: float, *, draining: bool) -> Dispatch:
        """Advance searches. Lease candidates for idle workers unless the supervisor is draining."""
        # Check this before searches advance: the end of a search may start its re-evaluation, so only the next
        # transaction knows whether all is done.
        only_ended = self._only is not None and not has_running_search(connection, self._only)
        dispatch = Dispatch(finished=only_ended)
        self._now = now
        cleanup_due = now >= self._cleanup_at
        for row in list_active_searches(
            connection, self._only, stopping=self._searches_in_training(), held=self._holds.with_errors()
        ):
            if row.wish != DesiredState.RUN:
                self._request_stops(row, now)
            elif self._may_change(row.id) and self._holds.allows_advance(row.id, wall):
                with faults_of_search(connection, row.id):
                    row.require_whole()
                    cleanup_due = advance_search(connection, row, wall, self._births) or cleanup_due
                    self._holds.record_advance(connection, row.id, wall)
        if not draining:
            self._lease_candidates(connection, dispatch, wall)
        if cleanup_due:
            dispatch.obsolete_files += self._retention.drop(connection)
            self._cleanup_at = now + self._timeouts.checkpoint_cleanup
        return dispatch

    def _may_change(self, search_id: int) -> bool:
        """Return whether this transaction has locked a search.

        Another host may have changed a search after this transaction took its locks, and may be advancing the search
        now. A later transaction advances such a search if something is left to do.
        """
        return self._locked is None or search_id in self._locked

    def _lease_candidates(self, connection: Connection, dispatch: Dispatch, wall: float) -> None:
        """Lease candidates for idle workers. Searches of higher priority come first."""
        idle = [slot for slot in self._slots if slot.worker is not None and slot.worker.idle]
        idle = without_taken(idle, self._slots)
        rows: Sequence[SearchRecord] = ()
        while idle:
            rows = list_leasable_searches(connection, self._only, wall, limit=PAGE, after=rows)
            for row in rows:
                if idle and self._holds.allows_advance(row.id, wall):
                    with faults_of_search(connection, row.id):
                        row.require_whole()
                        idle = self._lease_to_able(connection, row, idle, dispatch, wall)
            if len(rows) < PAGE:
                break

    def _lease_to_able(
        self, connection: Connection, row: SearchRecord, idle: list[Slot], dispatch: Dispatch, wall: float
    ) -> list[Slot]:
        """Lease candidates of a search for workers that use its arithmetic. If there are too few such workers, replace
        a worker.

        Return the slots that stay idle.
        """
        if row.spec["training"].get("program") is not None:
            lanes = [slot for slot in idle if _trains_in_lane(slot)]
            if lanes:
                rest = [slot for slot in idle if slot not in lanes]
                return lanes + self._lease_beside_lanes(connection, row, rest, dispatch, wall)
        arithmetic = arithmetic_of(row.spec)
        able = [slot for slot in idle if slot.worker is not None and slot.worker.arithmetic == arithmetic]
        others = [slot for slot in idle if slot not in able]
        devices = row.spec["training"].get("devices", 1)
        if devices > 1:
            return self._lease_on_several(connection, row, [*able, *others], devices, dispatch, wall)
        still_able = self._lease(connection, row, able, dispatch, wall)
        if others and not still_able:
            others = self._replace_one(connection, row, others, arithmetic, wall)
        return still_able + others

    def _lease_beside_lanes(
        self, connection: Connection, row: SearchRecord, idle: list[Slot], dispatch: Dispatch, wall: float
    ) -> list[Slot]:
        """Lease candidates of a search that trains with a user's own program. Use only slots without lanes.

        Return the slots that stay idle. A program occupies its process until it ends. Meanwhile, other lanes of the
        process could neither train nor stop. A daemon that has only lanes sets the search aside.
        """
        if all(_trains_in_lane(slot) for slot in self._slots) and self._holds.max_leases(row.id, wall) != 0:
            reason = (
                "training.program: a program needs a process of its own, but this daemon trains several "
                "candidates in each process; restart the daemon without --lanes"
            )
            self._holds.set_aside(connection, row.id, reason, wall)
        return self._lease_to_able(connection, row, idle, dispatch, wall) if idle else []

    def _lease_on_several(
        self, connection: Connection, row: SearchRecord, idle: list[Slot], devices: int, dispatch: Dispatch, wall: float
    ) -> list[Slot]:
        """Lease candidates of a search whose trainings take several slots each. Return the slots that stay idle.

        A daemon that uses only GPUs sets the search aside. Slots with the search's arithmetic come first in `idle`: the
        first worker needs this arithmetic, and its ranks inherit the arithmetic.
        """
        if all(slot.on_gpu for slot in self._slots):
            if self._holds.max_leases(row.id, wall) != 0:
                reason = (
                    f"final.devices={devices} works on CPUs only, but this daemon uses GPUs; start a daemon with "
                    "--devices cpu, or create final models with devices=1"
                )
                self._holds.set_aside(connection, row.id, reason, wall)
            return idle
        while self._holds.limit_leases(connection, row, len(idle), wall) > 0:
            slot, rest = split_for_training(idle, devices, self._slots)
            if slot is None:
                return rest
            assert slot.worker is not None
            if slot.worker.arithmetic != arithmetic_of(row.spec):
                others = [slot for slot in idle if slot.on_gpu]
                own = [slot for slot in idle if not slot.on_gpu]
                return self._replace_one(connection, row, own, arithmetic_of(row.spec), wall) + others
            if self._lease(connection, row, [slot], dispatch, wall):
                break
            idle = rest
        return idle

    def _replace_one(
        self, connection: Connection, row: SearchRecord, idle: list[Slot], arithmetic: str, wall: float
    ) -> list[Slot]:
        """Replace the worker of an idle slot if candidates wait for this arithmetic. Return the slots that stay idle.

        Workers that are starting with this arithmetic count too, so that no more workers than needed are replaced.
        """
        slot, *rest = idle
        alone = not any(other.busy for other in self._slots if other.device.uuid == slot.device.uuid)
        pending = leases.count_pending(connection, row.id, wall, alone=alone)
        waiting = self._holds.limit_leases(connection, row, pending, wall)
        on_cpu = row.spec["training"].get("devices", 1) > 1
        able = [slot for slot in self._slots if not (on_cpu and slot.on_gpu)]
        coming = sum(_next_arithmetic(slot) == arithmetic and not slot.busy for slot in able)
        if waiting <= coming:
            return idle
        slot.arithmetic = arithmetic
        slot.replace_worker(f"other candidates need {arithmetic} arithmetic", self._now, self._timeouts)
        return rest

    def _searches_in_training(self) -> list[int]:
        return [slot.training.assignment.leased.search_id for slot in self._slots if slot.training is not None]

    def _request_stops(self, row: SearchRecord, now: float) -> None:
        """Ask the trainings of a paused or cancelled search to stop."""
        request = Cancel if row.wish == DesiredState.CANCELLED else Release
        for slot in self._slots:
            trains_for_it = slot.training is not None and slot.training.assignment.leased.search_id == row.id
            if slot.worker is not None and trains_for_it:
                slot.worker.request_stop(request, now, self._timeouts)

    def _lease(
        self, connection: Connection, row: SearchRecord, idle: list[Slot], dispatch: Dispatch, wall: float
    ) -> list[Slot]:
        """Lease candidates of a search for idle slots. Return the slots that stay idle."""
        allowed = self._holds.limit_leases(connection, row, len(idle), wall)
        still_idle: list[Slot] = []
        for number, slot in enumerate(idle):
            if allowed <= 0:
                return still_idle + idle[number:]
            lease_filter = self._lease_filter(slot, row, dispatch.assigned_on(slot))
            assert slot.worker is not None
            assert slot.worker.worker_id is not None
            leased = lease_filter and transitions.lease_next(
                connection,
                row.id,
                host_id=self._host_id,
                worker_id=slot.worker.worker_id,
                now=wall,
                lease_filter=lease_filter,
            )
            if leased:
                self._holds.record_lease(row.id, leased.token)
                precision = slot.worker.precision(row.spec["training"]["precision"])
                assignment = create_assignment(connection, self._settings, row, leased, precision)
                dispatch.assigned.append((slot, assignment))
                allowed -= 1
            elif lease_filter == ANY_CANDIDATE:
                return still_idle + idle[number:]
            else:
                still_idle.append(slot)
        return still_idle

    def _lease_filter(self, slot: Slot, row: SearchRecord, assigned: Sequence[Assignment]) -> LeaseFilter | None:
        """Return a filter for candidates that fit on a slot's device in addition to its other trainings; None if no
        candidate fits.

        `assigned` are the new assignments on the same device.
        """
        running = [other for other in self._slots if other.device.uuid == slot.device.uuid and other.busy]
        if any(other.needs_device_alone for other in running):
            return None
        if any(assignment.needs_device_alone for assignment in assigned):
            return None
        if not running and not assigned:
            return ANY_CANDIDATE
        if not slot.on_gpu or slot.worker is None:
            return LeaseFilter(alone=False)
        free_bytes = self._gpu_scheduler.available_bytes(slot.device.uuid, running)
        free_bytes -= sum(assignment.expected_bytes for assignment in assigned)
        return LeaseFilter(
            alone=False,
            variable_bytes=max_variable_bytes(free_bytes, row.memory_share),
            batch_size=row.spec["training"]["batch_size"],
            precision=slot.worker.precision(row.spec["training"]["precision"]),
        )


def _trains_in_lane(slot: Slot) -> bool:
    """Return whether the slot's worker shares its process with other workers, or the slot's next worker may do so."""
    return slot.on_gpu if slot.worker is None else slot.worker.process.takes_turns


def _next_arithmetic(slot: Slot) -> str | None:
    """Return the arithmetic of a slot's worker or, if the worker is being replaced, of the next worker."""
    if slot.worker is not None and not slot.worker.exiting:
        return slot.worker.arithmetic
    return slot.arithmetic
