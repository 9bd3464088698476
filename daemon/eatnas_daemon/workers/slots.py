"""Slots on the CPU or on a GPU. A slot is a place for one worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eatnas_daemon.devices.model import CPU, CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.workers.running_training import RunningTraining
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_daemon.workers.worker_state import PlacementCheck, WorkerState
from eatnas_db.domain.arithmetic import NATIVE
from eatnas_protocol.messages import Message, Ready

MAX_DOUBLINGS: Final = 60
"""The maximum number of doublings of a delay.

A delay reaches its limit much earlier, and a larger power of 2 would overflow.
"""


@dataclass(slots=True)
class Slot:
    """A place for one worker on a device."""

    number: int
    device: DeviceSnapshot = CPU_DEVICE
    may_start: bool = True
    """Whether a worker may start now. On a GPU, the scheduler decides when a worker may start."""
    arithmetic: str | None = None
    """The arithmetic of the next worker, or None for the supervisor's default arithmetic."""
    worker: WorkerState | None = None
    failed_starts: int = 0
    """The number of workers in a row that ended before they were ready."""
    start_error: str | None = None
    start_after: float = 0.0

    @property
    def on_gpu(self) -> bool:
        """Return whether the slot is on a GPU."""
        return self.device.kind != CPU

    @property
    def training(self) -> RunningTraining | None:
        """Return the training of the slot's worker."""
        return None if self.worker is None else self.worker.training

    @property
    def busy(self) -> bool:
        """Return whether a training is running or about to start."""
        return self.worker is not None and self.worker.busy

    @property
    def needs_device_alone(self) -> bool:
        """Return whether the training must not share its device, because an earlier attempt ran out of memory."""
        return self.busy and self.training is not None and self.training.assignment.needs_device_alone

    def start_worker(self, process: WorkerProcess, now: float, arithmetic: str = NATIVE) -> WorkerState:
        """Assign a process that has just been started to the slot."""
        placement = PlacementCheck(verified=not self.on_gpu)
        self.worker = WorkerState(process, self.device, now, placement, arithmetic=arithmetic)
        return self.worker

    def receive(self, message: Message, now: float) -> bool:
        """Process a message of the worker. Return False if the message is about an earlier training and was ignored."""
        if isinstance(message, Ready):
            self.failed_starts, self.start_error = 0, None
            self._place_worker(message)
        return self.worker is not None and self.worker.receive(message, now)

    def _place_worker(self, ready: Ready) -> None:
        """Set the device of the slot if a cluster has placed the worker on it."""
        device = None if self.worker is None else self.worker.process.find_device(ready)
        if self.worker is not None and device is not None:
            self.device = self.worker.device = device
            self.worker.placement.verified = True

    def evict_worker(self, reason: str, now: float, timeouts: Timeouts) -> None:
        """Ask the worker to release its training and to exit. No other worker starts until `may_start` is set."""
        self.may_start = False
        if self.worker is not None:
            self.worker.request_exit(now, timeouts, reason)

    def replace_worker(self, reason: str, now: float, timeouts: Timeouts) -> None:
        """Ask the worker to exit, so that a new worker starts."""
        if self.worker is not None:
            self.worker.request_exit(now, timeouts, f"replaced by a fresh worker: {reason}")

    def remove_worker(self, now: float, timeouts: Timeouts) -> None:
        """Forget a worker whose end is recorded, and schedule the start of the next worker."""
        if self.worker is not None and self.worker.ready is None and not self.worker.cancelled:
            self.record_failed_start(now, timeouts, self.worker.unavailable_reason)
        self.worker = None
        self.may_start = self.may_start and not self.on_gpu

    def record_failed_start(self, now: float, timeouts: Timeouts, error: str | None) -> None:
        """Count a worker that did not start or ended before it was ready.

        The delay before the next start doubles with each such failure.
        """
        self.failed_starts, self.start_error = self.failed_starts + 1, error
        delay = timeouts.restart * 2.0 ** min(self.failed_starts - 1, MAX_DOUBLINGS)
        self.start_after = now + min(delay, timeouts.max_restart)
