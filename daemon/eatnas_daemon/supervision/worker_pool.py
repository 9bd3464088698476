"""Start the worker processes of a supervisor, read their messages, and kill workers that hang."""

from __future__ import annotations

import selectors

from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_daemon.supervision.faults import describe_fault
from eatnas_daemon.workers.device_time import share_device_time
from eatnas_daemon.workers.launcher import WorkerLauncher
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_daemon.workers.worker_state import WorkerFailure, WorkerState
from eatnas_db.domain.arithmetic import NATIVE
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import describe_os_error
from eatnas_protocol.checks import check_report
from eatnas_protocol.messages import EpochDone, Failed, FinalReport, Heartbeat, Message


class WorkerPool:
    """The slots of a supervisor and the processes in them.

    `slots` initially contains the slots on the CPU; the GPU scheduler adds and removes slots on GPUs. `cores` is the
    number of cores for trainings. `arithmetic` is the default arithmetic of workers. `accepts_starts` is False while
    the supervisor drains; a signal handler may change it at any moment.
    """

    def __init__(
        self,
        launcher: WorkerLauncher,
        gpu_scheduler: WorkerScheduler,
        selector: selectors.BaseSelector,
        timeouts: Timeouts,
        *,
        cpu_slots: int,
        now: float,
        cores: int,
        arithmetic: str = NATIVE,
    ) -> None:
        self._launcher, self._gpu_scheduler = launcher, gpu_scheduler
        self._selector, self._timeouts = selector, timeouts
        self.slots = [Slot(number) for number in range(cpu_slots)]
        self.accepts_starts = True
        self._ticked_at, self._heartbeat_at = now, 0.0
        self._cores, self._arithmetic = cores, arithmetic
        self._received_at = now
        self._blocked: set[int] = set()
        """The descriptors of the full pipes: their workers have not read all commands."""

    @property
    def workers(self) -> list[WorkerState]:
        """Return the workers whose end is not recorded yet."""
        return [slot.worker for slot in self.slots if slot.worker is not None]

    def excuse_suspension(self, now: float) -> None:
        """Extend the deadlines of all workers if this process was suspended since the last tick."""
        gap = now - self._ticked_at
        self._ticked_at = now
        if gap > self._timeouts.suspension:
            for worker in self.workers:
                worker.last_message_at += gap
                worker.stop_by = None if worker.stop_by is None else worker.stop_by + gap

    def receive(self, now: float) -> None:
        """Read the messages that have arrived, and reap the workers that have ended."""
        share_device_time(self.slots, now - self._received_at, self._cores)
        self._received_at = now
        for slot in self.slots:
            worker = slot.worker
            if worker is None or worker.ended:
                continue
            if not worker.process.has_closed_pipe:
                if not self._receive(slot, worker, now):
                    continue
                self._selector.unregister(worker.process.report_fd)
                self._update_blocked(self._blocked - {worker.process.command_fd})
            worker.exit_status = worker.process.reap(now)
            if worker.ended:
                worker.note_loss()

    def _receive(self, slot: Slot, worker: WorkerState, now: float) -> bool:
        """Process the messages of one worker. Return whether the worker has closed its pipe."""
        if worker.rejected:
            return worker.process.discard()
        try:
            messages, ended = worker.process.receive()
            for message in messages:
                check_report(message)
                if slot.receive(message, now):
                    self._process(message, slot, worker, now)
        except Exception as error:
            # Catch every exception, so that an unusable message of any kind ends only its own worker.
            worker.reject(f"the worker sent an unusable message ({describe_fault(error)})")
            return False
        return ended

    def _process(self, message: Message, slot: Slot, worker: WorkerState, now: float) -> None:
        if isinstance(message, EpochDone):
            worker.measure_epoch(message.epoch, now, self._gpu_scheduler.load(slot.device.uuid))
        if isinstance(message, FinalReport):
            reason = worker.count_training(self._timeouts)
            if not isinstance(message, Failed) and message.left_behind:
                reason = f"a training program left behind {message.left_behind}"
            if reason is not None:
                slot.replace_worker(reason, now, self._timeouts)
        if isinstance(message, Failed) and message.fatal:
            slot.replace_worker("the worker cannot continue after this failure", now, self._timeouts)

    def kill_overdue(self, now: float) -> None:
        """Kill the workers that exceed a time limit."""
        for worker in self.workers:
            if worker.ended or worker.kill_reason is not None or worker.has_final_report:
                continue
            if worker.process.pending:
                worker.last_message_at = now
                continue
            if worker.process.waits_for_turn:
                worker.last_message_at = now
                worker.stop_by = None if worker.stop_by is None else now + self._timeouts.stop
            elif worker.ready is not None and worker.training is None and not worker.process.holds_turn:
                worker.last_message_at = now
            failure = worker.overdue(now, self._timeouts)
            if failure is None:
                continue
            if worker.process.suspended:
                # A suspension is not the candidate's fault, so the attempt counts as lost, not as failed.
                failure = WorkerFailure(FailureKind.LOST, f"the worker was suspended: {failure.message}")
            worker.kill_reason = failure
            worker.process.kill()

    def request_exits(self, now: float) -> None:
        """Ask every worker to release its training and to exit."""
        for worker in self.workers:
            if not worker.ended:
                worker.request_exit(now, self._timeouts)

    def kill(self) -> None:
        """Kill every worker."""
        for worker in self.workers:
            if not worker.ended:
                worker.process.kill()

    def launch(self, now: float) -> None:
        """Start workers in the empty slots that accept a worker."""
        for slot in self.slots:
            if slot.worker is not None or not slot.may_start or now < slot.start_after or not self.accepts_starts:
                continue
            slot.may_start = not slot.on_gpu
            arithmetic = slot.arithmetic or self._arithmetic
            try:
                process = self._launch(slot, arithmetic)
            except Exception as error:
                # Catch every exception, because a failed start must not keep the other slots from training.
                text = describe_os_error(error) if isinstance(error, OSError) else describe_fault(error)
                slot.record_failed_start(now, self._timeouts, text)
                continue
            if slot.on_gpu:
                self._gpu_scheduler.add_worker(process.pid)
            worker = slot.start_worker(process, now, arithmetic)
            worker.placement.verified = any(
                other.placement.verified for other in self.workers if other.process_key == worker.process_key
            )
            self._selector.register(process.report_fd, selectors.EVENT_READ)
            process.send(Heartbeat(self._timeouts.lease))

    def _launch(self, slot: Slot, arithmetic: str) -> WorkerProcess:
        launcher = self._launcher if arithmetic == NATIVE else self._launcher.with_arithmetic(arithmetic)
        return launcher.launch(slot.number, slot.device)

    def send_heartbeats(self, now: float) -> None:
        """Send heartbeats if they are due, even if the database cannot be reached."""
        if now < self._heartbeat_at:
            return
        self._heartbeat_at = now + self._timeouts.lease / 3
        for worker in self.workers:
            worker.process.send(Heartbeat(self._timeouts.lease))

    def flush(self) -> None:
        """Send the commands that did not fit into a full pipe. The selector reports when a pipe is writable again."""
        blocked = set()
        for worker in self.workers:
            if not worker.process.has_closed_pipe:
                worker.process.flush()
                if worker.process.blocked_fd is not None:
                    blocked.add(worker.process.blocked_fd)
        self._update_blocked(blocked)

    def _update_blocked(self, blocked: set[int]) -> None:
        for descriptor in self._blocked - blocked:
            self._selector.unregister(descriptor)
        for descriptor in blocked - self._blocked:
            self._selector.register(descriptor, selectors.EVENT_WRITE)
        self._blocked = blocked

    def close(self) -> None:
        """Kill and reap every worker."""
        for worker in self.workers:
            worker.process.kill()
            if not worker.ended:
                worker.process.close()
