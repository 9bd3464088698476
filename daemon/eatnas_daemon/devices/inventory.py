"""List the devices of this machine, and their availability to the daemon of one home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from eatnas_daemon.daemon_lock import find_record_user
from eatnas_daemon.devices.availability import Availability, check_availability
from eatnas_daemon.devices.capacity import count_cpu_slots
from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.monitor import probe_once
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import DeviceOptions, parse_options
from eatnas_daemon.devices.probe import identify_process
from eatnas_daemon.lock_holder import LockHolder
from eatnas_db.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """A device, its availability, and the number of this home's workers on it."""

    device: DeviceSnapshot
    availability: Availability
    workers: int
    cpu_slots: int | None
    """The number of workers for which the CPU has room; None for a GPU."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices of this machine, the CPU last."""

    entries: tuple[InventoryEntry, ...]
    driver_error: str | None
    """The reason why the driver reports no GPU, or None if it reports one."""


def take_inventory(
    lock_file: Path,
    *,
    devices: Sequence[str],
    exclude: Sequence[str],
    max_per_device: int | None,
    allowed: Sequence[str],
    environment: Mapping[str, str],
    needed_bytes: int,
) -> Inventory:
    """Check whether one more worker that needs `needed_bytes` may start on each device.

    `lock_file` belongs to the home whose daemon and workers count as our own. Raises `NotFoundError` for an unknown
    device and `ConflictError` for options that permit no device.
    """
    nvml = Nvml()
    snapshots = probe_once(nvml)
    try:
        options = parse_options(
            snapshots,
            devices=devices,
            exclude=exclude,
            max_per_device=max_per_device,
            allowed=allowed,
            environment=environment,
        )
    except NotFoundError as error:
        raise with_driver_error(error, nvml) from None
    daemon, worker_pids = _find_processes(lock_file)
    entries = []
    for snapshot in snapshots:
        owner = snapshot.locked_by
        is_own = owner is not None and daemon is not None and owner.process == daemon
        device = replace(snapshot, locked_by=None) if is_own else snapshot
        entries.append(_check(device, options, worker_pids, needed_bytes, has_gpus=nvml.error is None))
    return Inventory(tuple(entries), nvml.error)


def with_driver_error(error: NotFoundError, nvml: Nvml) -> NotFoundError:
    """Return the error for an unknown device. If the driver reports no GPU, the error also gives the reason."""
    return error if nvml.error is None else NotFoundError(f"{error}; no GPU: {nvml.error}")


def _check(
    device: DeviceSnapshot, options: DeviceOptions, worker_pids: Sequence[int], needed_bytes: int, *, has_gpus: bool
) -> InventoryEntry:
    # Without GPUs, all workers run on the CPU. With GPUs, the driver reports which workers run on a GPU.
    on_device = [process.pid for process in device.processes if process.pid in worker_pids]
    own = worker_pids if device.kind == CPU and not has_gpus else on_device
    return InventoryEntry(
        device=device,
        availability=check_availability(device, options, own, needed_bytes),
        workers=len(own),
        cpu_slots=count_cpu_slots(device, len(own), needed_bytes) if device.kind == CPU else None,
    )


def _find_processes(lock_file: Path) -> tuple[LockHolder | None, list[int]]:
    """Return the home's daemon (None if it does not run on this machine), and the pids of the daemon's workers."""
    user = find_record_user(lock_file)
    if user is None or not user.process.is_running:
        return None, []
    daemon = user.process
    try:
        children = [process.pid for process in psutil.Process(daemon.pid).children(recursive=True)]
    except psutil.Error:
        return daemon, []
    identities = {pid: identify_process(pid) for pid in children}
    return daemon, [pid for pid, identity in identities.items() if identity is not None and identity.is_eatnas_worker]
