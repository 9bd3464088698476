"""The supervisor's view of one worker process: its reports, the requests to it, and its time limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.workers.assignments import Assignment
from eatnas_daemon.workers.running_training import CpuMeter, GpuMemory, RunningTraining
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_db.domain.arithmetic import NATIVE
from eatnas_db.domain.states import FailureKind
from eatnas_db.training_record import ResourceUse
from eatnas_protocol.messages import (
    Cancel,
    Checkpointed,
    Exit,
    Failed,
    FinalReport,
    Message,
    Phase,
    Progress,
    Ready,
    Release,
    Unavailable,
)

SLOW_PHASES: Final = frozenset({"loading", "building", "program"})
SETTLING_TRAININGS: Final = 5
"""The number of trainings after which the memory of a worker process should no longer grow."""
MAX_MEMORY_GROWTH: Final = 1.5
"""A worker is replaced if its memory grows to more than this multiple of its memory after `SETTLING_TRAININGS`
trainings.
"""
SILENCE_FACTOR: Final = 20
"""A training counts as hung if its silence lasts more than this multiple of its longest silence so far."""


class WorkerFailure(NamedTuple):
    """The reason why a worker was killed or died."""

    kind: FailureKind
    message: str


@dataclass(slots=True)
class PlacementCheck:
    """The check that the driver shows a worker on its own device. Workers on the CPU need no check."""

    verified: bool
    attempts: int = 0
    checked_at: float = 0.0


@dataclass(slots=True)
class WorkerState:
    """A worker process, from its start until its end is recorded."""

    process: WorkerProcess
    device: DeviceSnapshot
    last_message_at: float
    placement: PlacementCheck
    arithmetic: str = NATIVE
    """The arithmetic with which the worker's process started. The worker trains only recipes that use this arithmetic.
    """
    ready: Ready | None = None
    ready_at: float = 0.0
    worker_id: int | None = None
    """The id of the worker in the database; None until its `Ready` is recorded."""
    training: RunningTraining | None = None
    reports: list[Message] = field(default_factory=list)
    """The messages that are not recorded yet."""
    memory: GpuMemory = field(default_factory=GpuMemory)
    trainings: int = 0
    settled_memory_bytes: int = 0
    """The memory of the process, in bytes, after `SETTLING_TRAININGS` trainings."""
    stop_by: float | None = None
    """The time by which the worker must stop; None without a stop request."""
    exiting: bool = False
    exit_reason: str | None = None
    """The reason for an exit request; None if the daemon itself is stopping."""
    kill_reason: WorkerFailure | None = None
    unavailable_reason: str | None = None
    """The reason why the worker cannot train on its device, as the worker reported it."""
    exit_status: int | None = None
    rejected: bool = False
    """Whether the worker has sent an unusable message. Later messages are then ignored."""

    @property
    def on_gpu(self) -> bool:
        """Return whether the worker trains on a GPU."""
        return self.device.kind != CPU

    @property
    def process_key(self) -> tuple[int, str]:
        """Return the key of the worker's process, which is the same for all lanes of the process.

        The key contains the device, because processes on different nodes can have the same pid.
        """
        return self.process.pid, self.device.uuid

    @property
    def ended(self) -> bool:
        """Return whether the process has ended, even if its end is not recorded yet."""
        return self.exit_status is not None

    @property
    def killed_by_another_lane(self) -> bool:
        """Return whether a signal ended the process during another lane's turn. The candidate in that lane is then the
        cause.
        """
        reason, status = self.process.loss_reason, self.exit_status or 0
        return self.process.takes_turns and status < 0 and self.kill_reason == (FailureKind.LOST, reason)

    @property
    def cancelled(self) -> bool:
        """Return whether the worker was asked to exit before a cluster had started its process."""
        return self.exiting and not self.process.pid

    @property
    def has_final_report(self) -> bool:
        """Return whether the last report of the training has arrived."""
        return any(isinstance(report, FinalReport) for report in self.reports)

    @property
    def busy(self) -> bool:
        """Return whether a training is running or about to start."""
        return self.training is not None and not self.has_final_report

    @property
    def idle(self) -> bool:
        """Return whether the worker is waiting for an assignment."""
        available = self.worker_id is not None and self.placement.verified and not self.ended and not self.exiting
        return available and not self.busy

    def precision(self, requested: str) -> str:
        """Return the precision, `float32` or `bfloat16`, in which the worker's device trains a recipe that requests
        `requested`.
        """
        half = self.ready is not None and self.ready.half_precision
        if requested == "auto" or self.on_gpu:
            return "bfloat16" if half and requested != "float32" else "float32"
        return requested

    def receive(self, message: Message, now: float) -> bool:
        """Process a message. Return False if the message is about an earlier training and was ignored.

        Raises `ValueError` for a message that no worker of this version sends.
        """
        silence, self.last_message_at = now - self.last_message_at, now
        match message:
            case Ready():
                self.ready, self.ready_at = message, now
                self.memory.reported_bytes = message.marker_bytes
                self.reports.append(message)
                return True
            case Unavailable():
                self.unavailable_reason = message.reason
                return True
        training = self.training
        if training is None or not training.is_subject_of(message):
            return False
        if isinstance(message, Progress | FinalReport):
            training.time.report(message.device_seconds)
        match message:
            case Progress():
                training.update(message, silence)
                self.memory.reported_bytes = message.memory_bytes
            case Phase():
                training.phase = message.phase
            case Checkpointed():
                training.phase = "training"
                self.reports.append(message)
            case Failed():
                FailureKind(message.kind)
                self.reports.append(message)
            case _:
                self.reports.append(message)
        return True

    def note_loss(self) -> None:
        """Store the reason why another machine or another lane has ended the process, unless another cause is known."""
        reason = self.process.loss_reason
        if reason is not None and self.kill_reason is None:
            self.kill_reason = WorkerFailure(FailureKind.LOST, reason)
            if self.ready is None and self.unavailable_reason is None:
                self.unavailable_reason = reason

    def reject(self, reason: str) -> None:
        """Kill the worker because of an unusable message, and discard its reports that are not recorded yet."""
        self.rejected = True
        if self.worker_id is None:
            self.ready = None
        if self.ready is None:
            self.unavailable_reason = reason
        self.reports.clear()
        self.kill_reason = WorkerFailure(FailureKind.LOST, reason)
        self.exit_reason = reason
        self.process.kill()

    def assign(self, assignment: Assignment, now: float) -> None:
        """Send an assignment."""
        self.training = RunningTraining(assignment, CpuMeter(now, 0.0 if self.on_gpu else self.process.cpu_seconds))
        self.last_message_at, self.stop_by = now, None
        # The memory of the previous training is free again. It must not count as memory of this training.
        self.memory = GpuMemory()
        self.process.send(assignment.message)

    def measure_epoch(self, epoch: int, now: float, gpu_load: float | None) -> None:
        """Measure the resources used by an epoch that has just ended."""
        if self.training is None:
            return
        if self.on_gpu:
            self.training.resource_uses[epoch] = ResourceUse(self.memory.reported_bytes, gpu_load)
            return
        cpu_seconds, memory_bytes = self.process.cpu_seconds, self.process.memory_bytes
        if not memory_bytes:  # The process has already ended.
            return
        self.training.cpu.measure(now, cpu_seconds)
        self.training.resource_uses[epoch] = ResourceUse(memory_bytes, self.training.cpu.load)

    def count_training(self, timeouts: Timeouts) -> str | None:
        """Count a finished training. Return a reason to replace the worker, or None."""
        self.trainings += 1
        memory_bytes = self.process.memory_bytes
        if self.trainings == SETTLING_TRAININGS:
            self.settled_memory_bytes = memory_bytes
        if self.trainings > SETTLING_TRAININGS and memory_bytes > MAX_MEMORY_GROWTH * self.settled_memory_bytes:
            return "its memory has grown by more than 50%"
        if self.trainings >= timeouts.trainings_per_worker:
            return f"it has trained {self.trainings} candidates"
        return None

    def request_stop(self, request: type[Release | Cancel], now: float, timeouts: Timeouts) -> None:
        """Ask the worker to end its training, unless it was already asked to stop."""
        if self.training is None or self.stop_by is not None:
            return
        token = self.training.token
        self.process.send(request(token.candidate, token.attempt))
        self.stop_by = now + timeouts.stop

    def request_exit(self, now: float, timeouts: Timeouts, reason: str | None = None) -> None:
        """Ask the worker to release its training and to exit, unless it was already asked to exit."""
        if self.exiting:
            return
        self.process.send(Exit())
        if self.process.pending:  # No process has started yet that could read a command.
            self.process.kill()
        self.exiting, self.exit_reason, self.stop_by = True, reason, now + timeouts.stop

    def end_training(self) -> None:
        """Forget the training after its last report is recorded."""
        self.training = None
        if not self.exiting:
            self.stop_by = None

    @property
    def outstanding_bytes(self) -> int:
        """Return the part of the training's expected GPU memory that the driver's figures do not include yet."""
        if self.training is None or not self.busy:
            return 0
        return max(0, self.training.assignment.expected_bytes - self.memory.visible_bytes)

    @property
    def claimed_bytes(self) -> int:
        """Return the GPU memory that the worker reports or, before its first progress message, the expected memory."""
        if self.training is not None and self.busy and self.training.progress is None:
            return self.training.assignment.expected_bytes
        return self.memory.reported_bytes

    def overdue(self, now: float, timeouts: Timeouts) -> WorkerFailure | None:
        """Return the reason to kill the worker if it exceeds a time limit."""
        if self.process.unreachable_seconds > timeouts.silence:
            # This limit applies even in phases that may be silent for a long time, because here the machine itself does
            # not answer.
            return WorkerFailure(FailureKind.LOST, f"the worker's node has not answered for {timeouts.silence:g} s")
        if self.stop_by is not None and now > self.stop_by:
            # The request interrupted the training, so the attempt counts as lost, not as failed.
            message = f"the worker did not stop within {timeouts.stop:g} s"
            if self.exit_reason is not None:
                message = f"the worker did not exit within {timeouts.stop:g} s ({self.exit_reason})"
            return WorkerFailure(FailureKind.LOST, message)
        silence = now - self.last_message_at
        if self.ready is None:
            if silence <= timeouts.loading:
                return None
            return WorkerFailure(FailureKind.HANG, f"the worker was not ready within {timeouts.loading:g} s")
        if self.training is not None:
            return _overdue_training(self.training, silence, timeouts)
        if not self.process.holds_turn or silence <= timeouts.loading:
            return None
        message = f"the worker had no training, but blocked the other workers of its process for {silence:.0f} s"
        return WorkerFailure(FailureKind.LOST, message)


def _overdue_training(training: RunningTraining, silence: float, timeouts: Timeouts) -> WorkerFailure | None:
    limit = training.assignment.remaining_device_seconds
    if limit is not None and training.time.device_seconds > limit:
        total = limit + training.assignment.leased.spent_seconds
        message = f"the training took more than budget.candidate_seconds ({total:g} s)"
        return WorkerFailure(FailureKind.TIME_LIMIT, message)
    if training.phase in SLOW_PHASES:
        allowed = timeouts.loading
    else:
        allowed = max(timeouts.silence, SILENCE_FACTOR * training.longest_silence)
    if silence <= allowed:
        return None
    message = f"no message from the worker for {allowed:.0f} s in the phase {training.phase!r}"
    return WorkerFailure(FailureKind.HANG, message)
