"""The supervisor: a loop that runs workers and writes their reports to the database."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sqlalchemy import Engine

from eatnas_daemon.devices.probe import count_cores
from eatnas_daemon.gpus.worker_scheduler import NO_GPUS, WorkerScheduler
from eatnas_daemon.supervision.birth_preparer import BirthPreparer
from eatnas_daemon.supervision.change_listener import ChangeListener
from eatnas_daemon.supervision.checkpoint_collector import CheckpointCollector
from eatnas_daemon.supervision.commit_actions import CommitActions, record_gpu_results, run_commit_actions
from eatnas_daemon.supervision.device_reporter import DeviceReporter
from eatnas_daemon.supervision.disk_limit import DiskLimit
from eatnas_daemon.supervision.dispatcher import Dispatcher
from eatnas_daemon.supervision.faults import SearchError, WorkerError, describe_fault, format_fault
from eatnas_daemon.supervision.fencing import LeaseFencing
from eatnas_daemon.supervision.host_session import end_host_session, start_host_session
from eatnas_daemon.supervision.ownership import Ownership
from eatnas_daemon.supervision.recorder import Recorder
from eatnas_daemon.supervision.report_writer import ReportWriter
from eatnas_daemon.supervision.search_holds import SearchHolds
from eatnas_daemon.supervision.stop_signals import stop_on_signals
from eatnas_daemon.supervision.waiting_reason import WaitingReason
from eatnas_daemon.supervision.worker_demand import WorkerDemand
from eatnas_daemon.supervision.worker_placement import WorkerPlacement
from eatnas_daemon.supervision.worker_pool import WorkerPool
from eatnas_daemon.workers.launcher import WorkerLauncher
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import DEFAULT_TIMEOUTS, Timeouts
from eatnas_db.database.transactions import run_transaction, transaction
from eatnas_db.domain.arithmetic import NATIVE, arithmetic_of
from eatnas_db.errors import DamagedRecordError, EatnasError, OwnershipError, RecordError, TransactionRollbackError
from eatnas_db.searches.open_searches import list_leasable_searches
from eatnas_db.settings import Settings

MAX_FAULTS: Final = 20
"""The maximum number of transactions of one tick. Each transaction skips the searches and workers at which an earlier
one failed.
"""
MAX_ERRORS: Final = 20


class Supervisor:
    """Keeps every slot training until `stop()` is called, or until the search `only` is finished.

    `engine` should wait only briefly for a locked database, because the supervisor serves no worker meanwhile. `slots`
    is the number of slots on the CPU; the GPU scheduler adds and removes slots on GPUs. `cores` is the number of cores
    for trainings, by default all cores that this process may use. `max_bytes` limits the size of the home folder.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        launcher: WorkerLauncher,
        *,
        slots: int,
        host_name: str,
        cores: int | None = None,
        only: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        max_bytes: int | None = None,
        gpu_scheduler: WorkerScheduler = NO_GPUS,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._settings, self._timeouts = engine, settings, timeouts
        self._monotonic, self._wall = monotonic, wall
        self._gpu_scheduler = gpu_scheduler
        self._selector = selectors.DefaultSelector()
        self._changes = ChangeListener(engine, self._selector)
        self._births = BirthPreparer(engine, self._selector)
        self._host = start_host_session(engine, self._changes, host_name, wall(), with_processor=slots > 0)
        self._pool = WorkerPool(
            launcher,
            self._gpu_scheduler,
            self._selector,
            timeouts,
            cpu_slots=slots,
            now=monotonic(),
            cores=cores or count_cores(),
            arithmetic=_first_arithmetic(engine, only, wall()),
        )
        self._ownership = Ownership(settings, self._host, self._changes)
        self._placement = WorkerPlacement(self._host, self.slots, self._gpu_scheduler, timeouts)
        self._recorder = self._new_recorder(only, launcher)
        self._disk_limit = DiskLimit(engine, settings, max_bytes, timeouts.disk_check, wall)
        self._collector = CheckpointCollector(engine, settings.artifacts, timeouts.checkpoint_collection)
        self._draining = self._killing = False
        self._write_at = self._retry_at = 0.0
        self.finished = False
        self.trouble: str | None = None
        self.errors: list[str] = []
        """The tracebacks of unexpected exceptions. The log writes them and empties the list."""

    def _new_recorder(self, only: str | None, launcher: WorkerLauncher) -> Recorder:
        host, slots, gpus, timeouts = self._host, self.slots, self._gpu_scheduler, self._timeouts
        artifacts, log_file = self._settings.artifacts, launcher.log_file
        holds = SearchHolds(host.id, slots)
        return Recorder(
            host,
            slots,
            placement=self._placement,
            device_reporter=DeviceReporter(host.id, gpus),
            report_writer=ReportWriter(host, gpus),
            fencing=LeaseFencing(host.id, slots, timeouts.lease, self._monotonic()),
            dispatcher=Dispatcher(self._settings, host.id, slots, gpus, timeouts, only, holds, self._births),
            demand=WorkerDemand(host.id, slots, gpus, holds, only, timeouts.device_check),
            waiting_reason=WaitingReason(slots, self._placement, gpus, artifacts=artifacts, log_file=log_file),
            holds=holds,
            heartbeat_seconds=timeouts.lease / 3,
            wall=self._wall,
        )

    @property
    def slots(self) -> list[Slot]:
        """Return the slots on the CPU and on GPUs."""
        return self._pool.slots

    def run(self, on_tick: Callable[[Supervisor], None] = lambda _: None) -> None:
        """Tick until the work is done. The first SIGTERM or SIGINT makes the supervisor drain, and the second kills the
        workers.
        """
        with stop_on_signals(self.stop, self._pool.kill):
            try:
                while not self._is_over():
                    self.tick()
                    on_tick(self)
                    self._selector.select(self._timeouts.tick)
            finally:
                self._close()
                # If another supervisor owns the files now, that supervisor marks the workers as ended.
                with suppress(RecordError, OwnershipError):
                    self._ownership.require_files()
                    end_host_session(self._engine, self._host, self._wall())
                    if not self._killing:
                        self._collector.collect_at_once(self._monotonic())

    def stop(self) -> None:
        """Let the workers write checkpoints and exit. A second call kills the workers. Safe to call in a signal
        handler.
        """
        self._killing = self._draining
        self._draining = True
        self._pool.accepts_starts = False

    def tick(self) -> None:
        """Serve the workers once, and write all due changes to the database in one transaction.

        An unexpected exception is added to `errors`, and the next tick tries again. Raises `EatnasError`, for example
        if another daemon owns the home or the database now.
        """
        now = self._monotonic()
        self._ownership.require_files()
        try:
            self._tick(now)
        except EatnasError:
            raise
        except Exception as error:
            self.trouble = f"unexpected error: {describe_fault(error)}"
            self._retry_at = now + self._timeouts.database
            self._log_error(error)

    def _tick(self, now: float) -> None:
        self._pool.excuse_suspension(now)
        self._pool.receive(now)
        self._pool.kill_overdue(now)
        self._drain(now)
        if not self._draining:
            self._placement.update(now)
        self._pool.launch(now)
        self._pool.send_heartbeats(now)
        self._changes.poll()
        if self._is_write_due(now):
            self._write(now)
        self._pool.flush()

    def _drain(self, now: float) -> None:
        if self._killing:
            self._pool.kill()
        elif self._draining:
            self._pool.request_exits(now)

    def _is_write_due(self, now: float) -> bool:
        reported = any(worker.ended or worker.reports for worker in self._pool.workers)
        due = self._births.poll() or reported or self._changes.changed or now >= self._write_at
        return due and now >= self._retry_at

    def _write(self, now: float) -> None:
        self._write_at = now + self._timeouts.database
        try:
            actions = self._commit(now)
        except OwnershipError:
            raise
        except Exception as error:
            # The transaction may have been committed although its answer was lost, so compare with the database again.
            self._changes.changed = True
            is_expected = isinstance(error, RecordError)
            reason = str(error) if is_expected else f"unexpected error: {describe_fault(error)}"
            self._recorder.after_failure(reason)
            if not is_expected:
                self._log_error(error)
            self.trouble = reason
            if not isinstance(error, TransactionRollbackError):
                self._retry_at = self._write_at = self._monotonic() + self._timeouts.database
            return
        self._changes.changed = False
        self.trouble = self._recorder.waiting_reason
        self._recorder.after_commit(now)
        self._births.start()
        record_gpu_results(self.slots, self._gpu_scheduler)
        run_commit_actions(actions, self.slots, self._settings.artifacts, self._timeouts, now)
        self.finished = actions.finished and all(slot.training is None for slot in self.slots)
        if not self.finished:
            self._pool.launch(now)
        self._collector.collect(now)
        self._disk_limit.enforce(now)

    def _commit(self, now: float) -> CommitActions:
        """Write in one transaction.

        Repeat the transaction once after a conflict. If the transaction fails at one search or worker, repeat it
        without that search or worker.
        """
        conflicts = 0
        for _ in range(MAX_FAULTS):
            try:
                with transaction(self._engine) as connection:
                    self._ownership.require_host(connection)
                    return self._recorder.write(connection, now, changed=self._changes.changed, draining=self._draining)
            except TransactionRollbackError:
                conflicts += 1
                if conflicts > 1:
                    raise
            except SearchError as fault:
                self._recorder.set_aside(fault)
                self._log_error(fault)
            except WorkerError as fault:
                worker = fault.slot.worker
                if worker is None or worker.rejected:
                    raise
                worker.reject(f"a report of the worker cannot be recorded ({fault})")
                self._log_error(fault)
            self._changes.changed = True
            self._recorder.before_repetition()
        raise TransactionRollbackError("several searches or workers failed in one transaction; try again")

    def _log_error(self, error: Exception) -> None:
        self.errors = [*self.errors, format_fault(error)][-MAX_ERRORS:]

    def _is_over(self) -> bool:
        if self._killing:  # Do not wait for the record: the next daemon ends the leases.
            return all(worker.ended for worker in self._pool.workers)
        if self._draining:
            return not self._pool.workers
        return self.finished

    def _close(self) -> None:
        self._pool.close()
        self._gpu_scheduler.close()
        self._births.close()
        self._selector.close()
        self._changes.close()


def _first_arithmetic(engine: Engine, only: str | None, now: float) -> str:
    """Return the arithmetic of the search that is trained first, so that the first workers need not be replaced."""
    searches = run_transaction(engine, lambda connection: list_leasable_searches(connection, only, now, limit=1))
    try:
        return arithmetic_of(searches[0].spec) if searches else NATIVE
    except (DamagedRecordError, LookupError, TypeError, AttributeError):  # the first tick sets the search aside
        return NATIVE
