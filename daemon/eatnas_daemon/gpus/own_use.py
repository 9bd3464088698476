"""Remove this daemon's ended workers and its locks from the probes of the GPUs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from eatnas_daemon.devices.model import DeviceSnapshot
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.lock_holder import current_process

ENDED_SECONDS: Final = 10.0
"""The driver may still report a worker for this long after its end."""
LOCK_SECONDS: Final = 1.0
"""A probe may still show a lock for this long after its release."""


class OwnUseFilter:
    """Removes this daemon's ended workers and its locks from the last probe of the GPUs.

    A probe may still show a worker for some seconds after its end, and a lock after its release. Without the filter,
    such a worker or lock would look like use by another daemon.
    """

    def __init__(self, monitor: DeviceMonitor) -> None:
        self._monitor = monitor
        self._running: set[int] = set()
        self._ended_at: dict[int, float] = {}
        self._locked_at: dict[str, float] = {}

    def add_worker(self, pid: int) -> None:
        """Register a worker when it starts, because it may end before the next update."""
        self._running.add(pid)

    def update(self, running: set[int], locked: Iterable[str], now: float) -> None:
        """Set the pids of the running workers and the UUIDs of the devices that this daemon has locked."""
        self._ended_at |= dict.fromkeys(self._running - running, now)
        self._running = running
        for pid, ended_at in list(self._ended_at.items()):
            if pid in running or self._monitor.probe_started_at > ended_at + ENDED_SECONDS:
                del self._ended_at[pid]
        self._locked_at |= dict.fromkeys(locked, now)

    def snapshots(self) -> list[DeviceSnapshot]:
        """Return the devices of the last probe without this daemon's ended workers and locks."""
        return [self._without_own_use(device) for device in self._monitor.snapshots(wait=False)]

    def _without_own_use(self, device: DeviceSnapshot) -> DeviceSnapshot:
        ended = [process for process in device.processes if process.pid in self._ended_at]
        free_bytes = device.free_bytes + sum(process.used_bytes or 0 for process in ended)
        return replace(
            device,
            processes=tuple(process for process in device.processes if process not in ended),
            free_bytes=min(free_bytes, device.total_bytes),
            locked_by=None if self._is_own_lock(device) else device.locked_by,
        )

    def _is_own_lock(self, device: DeviceSnapshot) -> bool:
        """Return whether a lock is this daemon's own: it names this process, or is recent and names no process yet."""
        owner = device.locked_by
        if owner is None or owner.error is not None:
            return False
        recent = self._monitor.probe_started_at <= self._locked_at.get(device.uuid, -math.inf) + LOCK_SECONDS
        return owner.process == current_process() or (owner.process is None and recent)
