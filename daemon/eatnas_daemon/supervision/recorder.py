"""Write all reports and decisions of a supervisor to the database, in one transaction per tick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from eatnas_daemon.supervision.commit_actions import CommitActions
from eatnas_daemon.supervision.device_reporter import DeviceReporter
from eatnas_daemon.supervision.dispatcher import Dispatcher
from eatnas_daemon.supervision.faults import SearchError, faults_of_worker
from eatnas_daemon.supervision.fencing import LeaseFencing
from eatnas_daemon.supervision.host_session import SupervisedHost
from eatnas_daemon.supervision.report_writer import ReportWriter
from eatnas_daemon.supervision.search_holds import SearchHolds
from eatnas_daemon.supervision.waiting_reason import WaitingReason
from eatnas_daemon.supervision.worker_demand import WorkerDemand
from eatnas_daemon.supervision.worker_placement import WorkerPlacement
from eatnas_daemon.workers.slots import Slot
from eatnas_db import hosts, leases
from eatnas_db.domain.states import HoldCause
from eatnas_db.errors import StaleLeaseError
from eatnas_db.leases import LeaseProgress, LeaseToken
from eatnas_db.searches.control import set_waiting_reason
from eatnas_protocol.messages import Ready


class Recorder:
    """Writes heartbeats, reports and decisions in the transaction of the caller.

    If the transaction fails, the next transaction writes the same reports again.
    """

    def __init__(
        self,
        host: SupervisedHost,
        slots: list[Slot],
        *,
        placement: WorkerPlacement,
        device_reporter: DeviceReporter,
        report_writer: ReportWriter,
        fencing: LeaseFencing,
        dispatcher: Dispatcher,
        demand: WorkerDemand,
        waiting_reason: WaitingReason,
        holds: SearchHolds,
        heartbeat_seconds: float,
        wall: Callable[[], float],
    ) -> None:
        self._host, self._slots, self._placement = host, slots, placement
        self._device_reporter, self._report_writer = device_reporter, report_writer
        self._fencing, self._dispatcher, self._waiting_reason = fencing, dispatcher, waiting_reason
        self._demand = demand
        self._holds = holds
        self._heartbeat_seconds, self._heartbeat_at = heartbeat_seconds, 0.0
        self._wall = wall

    def write(self, connection: Connection, now: float, *, changed: bool, draining: bool) -> CommitActions:
        """Write everything that is due. `changed` is true if other programs may have changed the database.

        Raises `RecordError`, and `SearchError` or `WorkerError` if only one search or worker is the cause.
        """
        wall = self._wall()
        heartbeat = now >= self._heartbeat_at
        dead = self._fencing.find_dead_leases(connection, now) if heartbeat else []
        waits_otherwise = self._waiting_reason.changes(draining=draining)
        # Lock before all other writes, as the lock order in `database.locks` requires.
        self._dispatcher.lock_searches(connection, wall, everything=bool(dead) or waits_otherwise)
        stale = self._fencing.stale_slots(connection, wall) if changed or heartbeat else []
        if heartbeat:
            leases.record_heartbeat(connection, self._host.id, list_lease_progress(self._slots))
            hosts.touch_host(connection, self._host.id, wall)
        if changed or heartbeat:
            self._placement.set_paused(hosts.list_paused_devices(connection, self._host.id))
        self._device_reporter.write(connection, wall, heartbeat=heartbeat)
        if self._fencing.expire_leases(connection, dead, wall):
            # A dead host has left a waiting reason in the database. Overwrite it with this host's reason.
            set_waiting_reason(connection, self._waiting_reason.text)
        self._holds.write(connection, wall, changed=changed or heartbeat)
        obsolete_files = self._write_workers(connection, stale, wall, draining=draining)
        self._waiting_reason.update(connection, draining=draining)
        dispatch = self._dispatcher.dispatch(connection, now, wall, draining=draining)
        if not draining:
            self._demand.update(connection, now, wall)
        return CommitActions(
            assigned=dispatch.assigned,
            stale=stale,
            obsolete_files=obsolete_files + dispatch.obsolete_files,
            finished=dispatch.finished,
        )

    def _write_workers(self, connection: Connection, stale: list[Slot], wall: float, *, draining: bool) -> list[str]:
        """Write the reports and ends of all workers. Add to `stale` the slots that have lost their leases."""
        obsolete_files: list[str] = []
        for slot in self._slots:
            with faults_of_worker(connection, slot):
                try:
                    obsolete_files += self._report_writer.write_reports(connection, slot, wall)
                except StaleLeaseError:
                    stale.append(slot)
                if slot.worker is not None and slot.worker.ended:
                    self._report_writer.write_end(connection, slot.worker, wall, draining=draining)
        for slot in stale:
            with faults_of_worker(connection, slot):
                self._report_writer.write_time(connection, slot)
        return obsolete_files

    @property
    def waiting_reason(self) -> str | None:
        """Return the reason why no candidate is trained, as of the last transaction; None if one is trained."""
        return self._waiting_reason.text

    def after_commit(self, now: float) -> None:
        """Schedule the next heartbeat if the transaction has committed one."""
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + self._heartbeat_seconds
        self._waiting_reason.after_commit()
        self._holds.after_commit()

    def set_aside(self, fault: SearchError) -> None:
        """Set a search aside. The next transaction records that the search is set aside."""
        self._holds.add_failure(fault.search_id, HoldCause.ERROR, str(fault))

    def after_failure(self, reason: str) -> None:
        """Prepare to repeat the writes of a failed transaction. Each `WorkerState` keeps its reports until they are
        recorded.
        """
        self.before_repetition()
        self._waiting_reason.text = reason

    def before_repetition(self) -> None:
        """Forget the workers and the waiting reason that a rolled-back transaction has written."""
        self._waiting_reason.before_repetition()
        self._dispatcher.before_repetition()
        for slot in self._slots:
            worker = slot.worker
            if worker is not None and any(isinstance(report, Ready) for report in worker.reports):
                worker.worker_id = None


def list_lease_progress(slots: Sequence[Slot]) -> dict[LeaseToken, LeaseProgress]:
    """Return the progress of each training that has reported its progress."""
    progress: dict[LeaseToken, LeaseProgress] = {}
    sharing = Counter(slot.worker.process_key for slot in slots if slot.worker is not None and slot.busy)
    for slot in slots:
        training = slot.training
        if slot.worker is not None and training is not None and training.progress is not None:
            time, speed = training.time, training.images_per_second
            if speed is not None:  # in wall time: a lane counts only the seconds of its turns
                speed /= max(1, sharing[slot.worker.process_key])
            progress[training.token] = LeaseProgress(speed, time.share, time.step_seconds)
    return progress
