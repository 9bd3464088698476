"""Record the reason why candidates are not trained, which is shown as the status of searches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from eatnas_daemon.devices.availability import Cause
from eatnas_daemon.devices.model import CPU_DEVICE
from eatnas_daemon.devices.sharing import DeviceStatus, describe_unavailable
from eatnas_daemon.gpus.device_health import PAUSED
from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_daemon.supervision.worker_placement import WorkerPlacement
from eatnas_daemon.workers.slots import Slot
from eatnas_db.searches.control import set_waiting_reason
from eatnas_protocol.messages import DISK_FULL


class WaitingReason:
    """Writes the reason to the database whenever it changes.

    `text` is the reason that the last transaction has written or, if it failed, its error.
    """

    def __init__(
        self,
        slots: list[Slot],
        placement: WorkerPlacement,
        gpu_scheduler: WorkerScheduler,
        *,
        artifacts: Path,
        log_file: Callable[[int], Path],
    ) -> None:
        self._slots, self._placement, self._gpu_scheduler = slots, placement, gpu_scheduler
        self._artifacts, self._log_file = artifacts, log_file
        self.text: str | None = None
        self._committed: str | None = None
        self._no_device: tuple[tuple[Cause, ...], str] | None = None

    def after_commit(self) -> None:
        """Keep the reason that the transaction has written."""
        self._committed = self.text

    def before_repetition(self) -> None:
        """Forget the reason that a rolled-back transaction has written."""
        self.text = self._committed

    def changes(self, *, draining: bool) -> bool:
        """Return whether `update` would write another reason."""
        return self._current(draining) != self.text

    def update(self, connection: Connection, *, draining: bool) -> None:
        """Write the current reason if it differs from the last one."""
        text = self._current(draining)
        if text != self.text:
            set_waiting_reason(connection, text)
            self.text = text

    def _current(self, draining: bool) -> str | None:
        if any(slot.training is not None and slot.training.phase == DISK_FULL for slot in self._slots):
            return f"the disk of {self._artifacts} is full; training continues when it has free space"
        if self._gpu_scheduler.problem is not None and not draining:
            return self._gpu_scheduler.problem
        failing = next((slot for slot in self._slots if slot.failed_starts > 1 and not slot.on_gpu), None)
        if failing is not None:
            if failing.start_error is not None:
                return f"workers cannot be started: {failing.start_error}"
            log = self._log_file(failing.number)
            return f"workers end before they are ready ({failing.failed_starts} times); see {log}"
        if draining or any(slot.worker is not None or slot.may_start for slot in self._slots):
            return None
        return self._no_free_device()

    def _no_free_device(self) -> str | None:
        """Return the reason why no device is free. The text changes only when a cause changes, so that figures in it
        may be outdated.
        """
        statuses = list(self._gpu_scheduler.statuses)
        if self._placement.processor_paused and any(not slot.on_gpu for slot in self._slots):
            statuses.append(DeviceStatus(CPU_DEVICE, PAUSED))
        if all(status.availability.free for status in statuses):
            return None
        causes = tuple(status.availability.cause for status in statuses)
        if self._no_device is None or self._no_device[0] != causes:
            self._no_device = causes, f"no device is free: {describe_unavailable(statuses)}"
        return self._no_device[1]
