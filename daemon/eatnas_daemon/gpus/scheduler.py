"""The scheduler of a supervisor's GPUs. It uses free GPUs, and yields them to other users."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from eatnas_daemon.devices.availability import Cause
from eatnas_daemon.devices.locks import LOCK_FOLDER
from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_daemon.devices.sharing import MIN_BACKOFF_SECONDS, DeviceSharing, DeviceStatus, SharingPolicy
from eatnas_daemon.gpus.device_health import HealthTracker
from eatnas_daemon.gpus.own_use import OwnUseFilter
from eatnas_daemon.gpus.placement_verifier import PlacementVerifier
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.workers.worker_state import WorkerFailure
from eatnas_db.domain.memory_estimate import CONTEXT_BYTES
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import ConflictError

MAX_FAILED_STARTS: Final = 2
"""A GPU is excluded after this many workers in a row ended before they were ready."""


class GpuScheduler:
    """Opens and closes the slots on GPUs. Never waits for the driver.

    `max_workers` limits the workers on all GPUs together, unless it is None. `workers_per_device` limits the workers on
    each GPU.
    """

    follows_demand: Final = False

    def __init__(
        self,
        monitor: DeviceMonitor,
        options: DeviceOptions,
        rng: KeyedRng,
        *,
        policy: SharingPolicy = SharingPolicy.YIELD,
        max_workers: int | None = None,
        workers_per_device: int = 1,
        folder: Path = LOCK_FOLDER,
        min_backoff_seconds: float = MIN_BACKOFF_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monitor, self._monotonic = monitor, monotonic
        self._max_workers, self._workers_per_device = max_workers, workers_per_device
        self._own_use = OwnUseFilter(monitor)
        self._health = HealthTracker(rng, min_backoff_seconds)
        self._verifier = PlacementVerifier(monitor)
        self._sharing = DeviceSharing(
            self._own_use.snapshots,
            options,
            rng,
            policy=policy,
            folder=folder,
            min_backoff_seconds=min_backoff_seconds,
            monotonic=monotonic,
        )
        self.statuses: list[DeviceStatus] = []
        self.problem: str | None = None

    def set_demand(self, slots: int) -> None:
        """Ignore the demand, because slots on GPUs of this machine stay open without it."""

    def update(self, slots: list[Slot], paused: Collection[str], timeouts: Timeouts) -> None:
        """Add slots on available GPUs, evict workers from unavailable GPUs, and remove empty slots."""
        now = self._monotonic()
        self.statuses = self._assess(slots, paused, now)
        for status in self.statuses:
            here = [slot for slot in slots if slot.device.uuid == status.device.uuid]
            for slot in here:
                self._verify(slot, now)
            if status.evict:
                for slot in here:
                    slot.evict_worker(status.availability.reason, now, timeouts)
            elif status.availability.free:
                self._open_slot(status.device, slots, here, now)
        for slot in slots:
            if slot.worker is not None:
                slot.worker.memory.sample()
        statuses = {status.device.uuid: status for status in self.statuses}
        slots[:] = [slot for slot in slots if not slot.on_gpu or _is_needed(slot, statuses.get(slot.device.uuid))]

    def add_worker(self, pid: int) -> None:
        """Register a worker that was just started on a GPU."""
        self._own_use.add_worker(pid)

    def record_failure(self, uuid: str, candidate_id: int) -> None:
        """Count a training that failed on a GPU and ended its worker."""
        self._health.record_failure(uuid, candidate_id, self._monotonic())

    def record_success(self, uuid: str) -> None:
        """Reset the failures of a GPU, because a training has finished on it."""
        self._health.record_success(uuid)

    def available_bytes(self, uuid: str, slots: Collection[Slot]) -> int:
        """Return the bytes of GPU memory that the trainings in `slots` leave for one more training; 0 if unknown."""
        status = self._status(uuid)
        return 0 if status is None else _available_bytes(status.device, slots)

    def load(self, uuid: str) -> float | None:
        """Return the utilisation of a GPU, from 0 to 1, or None if it is unknown."""
        status = self._status(uuid)
        percent = None if status is None else status.device.utilisation_percent
        return None if percent is None else percent / 100

    def is_broken(self, uuid: str) -> bool:
        """Return whether a GPU does not answer."""
        status = self._status(uuid)
        return status is not None and status.availability.cause is Cause.ERROR

    def close(self) -> None:
        """Unlock all GPUs and stop probing them."""
        self._sharing.close()
        self._monitor.close()

    def _status(self, uuid: str) -> DeviceStatus | None:
        return next((status for status in self.statuses if status.device.uuid == uuid), None)

    def _assess(self, slots: list[Slot], paused: Collection[str], now: float) -> list[DeviceStatus]:
        own_pids = _pids_by_device(slots)
        self._own_use.update({pid for pids in own_pids.values() for pid in pids}, self._sharing.held, now)
        own_bytes = dict.fromkeys(own_pids, 0)
        for slot in slots:
            if slot.worker is not None and slot.device.uuid in own_bytes:
                own_bytes[slot.device.uuid] += slot.worker.claimed_bytes
        return [
            self._health.apply(status, paused, now)
            for status in self._sharing.statuses(own_pids, worker_bytes=own_bytes)
            if status.device.kind != CPU
        ]

    def _open_slot(self, device: DeviceSnapshot, slots: list[Slot], here: list[Slot], now: float) -> None:
        """Open a slot for one more worker on an available GPU. The next worker starts only when this worker trains."""
        empty = [slot for slot in here if slot.worker is None]
        if empty and empty[0].failed_starts >= MAX_FAILED_STARTS:
            self._health.exclude(device.uuid, _start_failure(empty[0]), now)
            for slot in empty:
                slot.may_start = False
            return
        if not empty and not self._is_another_wanted(device, slots, here):
            return
        try:
            if not self._sharing.acquire(device):
                return
        except ConflictError as error:
            self._health.exclude(device.uuid, str(error), now)
            return
        slot = empty[0] if empty else Slot(_free_number(slots), device)
        slot.may_start = True
        self._verifier.note_start(slot)
        if not empty:
            slots.append(slot)

    def _is_another_wanted(self, device: DeviceSnapshot, slots: list[Slot], here: list[Slot]) -> bool:
        """Return whether to add a slot on a GPU. The first slot is added at once, a further slot only when all other
        slots train.
        """
        if self._max_workers is not None and sum(slot.on_gpu for slot in slots) >= self._max_workers:
            return False
        if not here:
            return True
        trainings = [slot.training for slot in here if slot.busy]
        expected = [t.assignment.expected_bytes for t in trainings if t is not None and t.progress is not None]
        if len(here) >= self._workers_per_device or len(expected) < len(here):
            return False
        if any(slot.on_gpu and not slot.busy for slot in slots) or any(slot.needs_device_alone for slot in here):
            return False
        # Keep room for two CUDA contexts: the context of the new worker, and a reserve that must stay free when its
        # training starts.
        return _available_bytes(device, here) >= 2 * CONTEXT_BYTES + max(expected)

    def _verify(self, slot: Slot, now: float) -> None:
        """Kill a worker that is not on its own GPU."""
        reason = self._verifier.verify(slot)
        if reason is not None and slot.worker is not None:
            slot.worker.kill_reason = WorkerFailure(FailureKind.LOST, reason)
            slot.worker.process.kill()
            self._health.exclude(slot.device.uuid, reason, now)


def _available_bytes(device: DeviceSnapshot, slots: Iterable[Slot]) -> int:
    """Return the free memory of a device minus the memory that its trainings are still expected to allocate."""
    return device.free_bytes - sum(slot.worker.outstanding_bytes for slot in slots if slot.worker is not None)


def _pids_by_device(slots: Collection[Slot]) -> dict[str, set[int]]:
    pids: dict[str, set[int]] = {}
    for slot in slots:
        if slot.on_gpu and slot.worker is not None and not slot.worker.ended:
            pids.setdefault(slot.device.uuid, set()).add(slot.worker.process.pid)
    return pids


def _start_failure(slot: Slot) -> str:
    if slot.start_error:
        return f"workers cannot be started: {slot.start_error}"
    return f"workers end before they are ready; see logs/worker-{slot.number}.log"


def _free_number(slots: Collection[Slot]) -> int:
    taken = {slot.number for slot in slots}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def _is_needed(slot: Slot, status: DeviceStatus | None) -> bool:
    if slot.worker is not None:
        return True
    return (
        slot.may_start and status is not None and (status.availability.free or status.availability.cause is Cause.FULL)
    )
