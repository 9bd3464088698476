"""Share GPUs with other users: yield a GPU to their processes, wait, and use it again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from eatnas_daemon.devices.availability import Availability, Cause, check_availability
from eatnas_daemon.devices.locks import LOCK_FOLDER, DeviceLocks
from eatnas_daemon.devices.model import CPU, DeviceSnapshot, GpuProcess, ProcessIdentity
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_db.domain.rng import KeyedRng

MIN_BACKOFF_SECONDS: Final = 30.0
MAX_BACKOFF_SECONDS: Final = 3600.0


class SharingPolicy(StrEnum):
    """The reaction of workers to another process that starts on their device."""

    YIELD = "yield"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device, its availability, and whether the workers of this daemon must leave it."""

    device: DeviceSnapshot
    availability: Availability
    evict: bool = False


class DeviceSharing:
    """The devices of one daemon. Decides which devices are available, locks them and yields them to other processes."""

    def __init__(
        self,
        snapshots: Callable[[], Sequence[DeviceSnapshot]],
        options: DeviceOptions,
        rng: KeyedRng,
        *,
        policy: SharingPolicy = SharingPolicy.YIELD,
        folder: Path = LOCK_FOLDER,
        min_backoff_seconds: float = MIN_BACKOFF_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshots, self._options, self._rng, self._policy = snapshots, options, rng, policy
        self._monotonic, self._min_backoff_seconds = monotonic, min_backoff_seconds
        self._locks = DeviceLocks(folder, monotonic)
        self._yielding: set[str] = set()
        self._suspected: set[str] = set()
        """Devices on which the last probe has indicated another process."""
        self._backoffs: dict[str, tuple[int, float]] = {}
        """For each device: the number of times in a row that it was yielded, and the earliest monotonic time of its
        next use.
        """

    def statuses(
        self,
        worker_pids: Mapping[str, Collection[int]],
        needed_bytes: int = 0,
        worker_bytes: Mapping[str, int] | None = None,
    ) -> list[DeviceStatus]:
        """Return the status of every device, and unlock the devices without workers.

        `worker_pids` contains the pids of this daemon's workers on each device. `worker_bytes` contains the memory that
        these workers report.
        """
        now = self._monotonic()
        for uuid in self._locks.held:
            if not worker_pids.get(uuid):
                self._release(uuid, now)
        self._locks.refresh()
        reported = worker_bytes or {}
        return [
            self._status(device, worker_pids.get(device.uuid, ()), needed_bytes, reported.get(device.uuid), now)
            for device in self._snapshots()
        ]

    def _status(
        self,
        snapshot: DeviceSnapshot,
        worker_pids: Collection[int],
        needed_bytes: int,
        worker_bytes: int | None,
        now: float,
    ) -> DeviceStatus:
        device = replace(snapshot, locked_by=None) if snapshot.uuid in self._locks.held else snapshot
        availability = check_availability(device, self._options, worker_pids, needed_bytes, worker_bytes=worker_bytes)
        if should_yield(self._policy, device, availability, worker_pids):
            # Workers report memory a little after they allocate it. Unexplained memory is therefore a sign of another
            # process only if two probes in a row show it.
            if availability.other_processes or device.uuid in self._suspected:
                self._yielding.add(device.uuid)
            self._suspected.add(device.uuid)
        else:
            self._suspected.discard(device.uuid)
        wait_seconds = self._backoffs.get(device.uuid, (0, now))[1] - now
        if device.uuid in self._yielding:
            # Evict the workers even if the other process has ended by now.
            availability = replace(availability, free=False)
        elif availability.free and wait_seconds > 0:
            reason = f"yielded to another process; will be used again {_within(wait_seconds)}"
            availability = Availability(False, reason, Cause.BACKOFF)
        return DeviceStatus(device, availability, evict=device.uuid in self._yielding)

    @property
    def held(self) -> frozenset[str]:
        """Return the UUIDs of the devices that this daemon has locked."""
        return self._locks.held

    def acquire(self, device: DeviceSnapshot) -> bool:
        """Lock a device before its first worker starts. Return False if another daemon has locked the device.

        The CPU needs no lock. Raises `ConflictError` if the lock file cannot be used.
        """
        return device.kind == CPU or self._locks.acquire(device.uuid)

    def close(self) -> None:
        """Unlock every device."""
        self._locks.release_all()

    def _release(self, uuid: str, now: float) -> None:
        used_seconds = self._locks.release(uuid)
        if uuid in self._yielding:
            self._yielding.remove(uuid)
            previous, _ = self._backoffs.get(uuid, (0, 0.0))
            count, wait_seconds = next_backoff(previous, used_seconds, self._rng, self._min_backoff_seconds)
            self._backoffs[uuid] = count, now + wait_seconds


def should_yield(
    policy: SharingPolicy, device: DeviceSnapshot, availability: Availability, worker_pids: Collection[int]
) -> bool:
    """Return whether the workers must leave a device because another process uses it.

    Of two eatnas-db daemons, the daemon whose workers started later yields the device. If the order is unknown, the
    workers of both daemons leave.
    """
    if policy is SharingPolicy.STAY or availability.cause is not Cause.IN_USE or not worker_pids:
        return False
    workers = [process.identity for process in device.processes if process.pid in worker_pids]
    starts = [identity.started_at for identity in workers if identity is not None]
    started_at = min((start for start in starts if start is not None), default=None)
    others = availability.other_processes
    return not others or any(not _will_yield(process, started_at) for process in others)


def _will_yield(process: GpuProcess, started_at: float | None) -> bool:
    """Return whether another process is a worker of another eatnas-db daemon and started later than our workers."""
    identity = process.identity or ProcessIdentity()
    if not identity.is_eatnas_worker or started_at is None or identity.started_at is None:
        return False
    return started_at < identity.started_at


def next_backoff(
    count: int, used_seconds: float, rng: KeyedRng, min_seconds: float = MIN_BACKOFF_SECONDS
) -> tuple[int, float]:
    """Return the number of times in a row that a device has been yielded, and the seconds to stay away from it.

    `count` is the number before this yield. After a long use of the device, counting starts again. The longest possible
    wait doubles each time, up to a limit. The wait is random, so that two daemons that yield to each other at the same
    moment do not return at the same moment.
    """
    count = 1 if used_seconds >= MAX_BACKOFF_SECONDS else count + 1
    longest = min(min_seconds * 2 ** (count - 1), MAX_BACKOFF_SECONDS)
    return count, longest * (1 + rng.bits() / 2**64) / 2


def describe_unavailable(statuses: Sequence[DeviceStatus]) -> str:
    """Return a message that says why devices are not free, with the devices grouped by reason."""
    groups: dict[str, list[DeviceSnapshot]] = {}
    for status in statuses:
        if not status.availability.free:
            groups.setdefault(status.availability.reason, []).append(status.device)
    return "; ".join(f"{_join_labels(devices)}: {reason}" for reason, devices in groups.items())


def _join_labels(devices: Sequence[DeviceSnapshot]) -> str:
    gpus = [device for device in devices if device.kind != CPU]
    if len(gpus) < 2:
        return ", ".join(device.label for device in devices)
    others = [device.label for device in devices if device.kind == CPU]
    return ", ".join([f"GPUs {', '.join(str(gpu.index) for gpu in gpus)}", *others])


def _within(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"within {minutes} minutes" if minutes > 1 else "within a minute"
