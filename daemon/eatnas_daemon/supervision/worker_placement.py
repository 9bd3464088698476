"""Decide on which devices workers may start, and which devices they must leave."""

from __future__ import annotations

import math

from eatnas_daemon.devices.model import CPU
from eatnas_daemon.gpus.device_health import PAUSED
from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_daemon.supervision.host_session import SupervisedHost
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts


class WorkerPlacement:
    """Applies users' pauses and the decisions of the GPU scheduler to the slots."""

    def __init__(
        self, host: SupervisedHost, slots: list[Slot], gpu_scheduler: WorkerScheduler, timeouts: Timeouts
    ) -> None:
        self._processor, self._slots = host.processor, slots
        self._gpu_scheduler, self._timeouts = gpu_scheduler, timeouts
        self._paused = host.paused
        self._update_at = -math.inf

    @property
    def processor_paused(self) -> bool:
        """Return whether a user has paused the CPU."""
        return self._processor in self._paused

    def set_paused(self, paused: frozenset[str]) -> None:
        """Set the UUIDs of the paused devices. A change takes effect with the next update."""
        if paused != self._paused:
            self._paused, self._update_at = paused, -math.inf

    def update(self, now: float) -> None:
        """Update the slots when an update is due. Does not wait for the driver."""
        if now < self._update_at:
            return
        self._update_at = now + self._timeouts.device_check
        for slot in self._slots:
            if slot.device.uuid == CPU:
                slot.may_start = not self.processor_paused
                if self.processor_paused:
                    slot.evict_worker(PAUSED.reason, now, self._timeouts)
        self._gpu_scheduler.update(self._slots, self._paused, self._timeouts)
