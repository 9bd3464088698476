"""Decide whether one more worker may start on a device, and give the reason if it may not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from eatnas_daemon.devices.model import (
    CPU,
    UNATTRIBUTED_BYTES,
    DeviceSnapshot,
    GpuProcess,
    ProcessIdentity,
)
from eatnas_daemon.devices.options import UNSEEN_PROCESSES, DeviceOptions
from eatnas_report.formats import format_gib

BUSY_PERCENT: Final = 20
"""A GPU without a worker of this daemon counts as used by another process if it is busier than this percentage."""


class Cause(StrEnum):
    """The reason why a device is available or not, as a keyword."""

    FREE = "free"
    ERROR = "error"
    EXCLUDED = "excluded"
    UNSUPPORTED = "unsupported"
    LOCKED = "locked"
    IN_USE = "in-use"
    FULL = "full"
    BUSY = "busy"
    LOW_MEMORY = "low-memory"
    BACKOFF = "backoff"
    PAUSED = "paused"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether one more worker may start on a device, and the reason as a message."""

    free: bool
    reason: str
    cause: Cause = Cause.FREE
    other_processes: tuple[GpuProcess, ...] = ()
    """The processes of other programs that make the device unavailable."""


def check_availability(
    device: DeviceSnapshot,
    options: DeviceOptions,
    worker_pids: Collection[int] = (),
    needed_bytes: int = 0,
    *,
    worker_bytes: int | None = None,
) -> Availability:
    """Return whether one more worker that needs `needed_bytes` may start on a device.

    `worker_pids` are the workers of this daemon on the device. `worker_bytes` is the memory that the workers report. If
    it is None, the memory that the driver reports for the workers counts.
    """
    excluded = _excluded_reason(device, options)
    if excluded is not None:
        return Availability(False, excluded, Cause.EXCLUDED)
    invisible = _invisible_reason(device, options)
    if invisible is not None and not (device.mig_enabled and options.has_mig_slices):
        return Availability(False, invisible, Cause.EXCLUDED)
    if device.error is not None:
        return Availability(False, device.error, Cause.ERROR)
    if device.mig_enabled:
        reason = f"MIG mode is not supported; disable it with `nvidia-smi -i {device.uuid} -mig 0`"
        return Availability(False, reason, Cause.UNSUPPORTED)
    if device.compute_prohibited:
        reason = f"compute mode is prohibited; an administrator can change it with `nvidia-smi -i {device.uuid} -c 0`"
        return Availability(False, reason, Cause.UNSUPPORTED)
    if device.locked_by is not None:
        return Availability(False, f"locked by another eatnas-db daemon ({device.locked_by})", Cause.LOCKED)
    if device.kind != CPU:
        in_use = _check_other_use(device, options, worker_pids, worker_bytes)
        if in_use is not None:
            return in_use
    if device.compute_exclusive and worker_pids:
        return Availability(
            False, "compute mode is exclusive, so only one worker at a time can use the device", Cause.FULL
        )
    limit = options.max_per_device
    if limit is not None and len(worker_pids) >= limit:
        return Availability(False, f"--max-per-device {limit} is reached", Cause.FULL)
    if needed_bytes > device.free_bytes:
        reason = (
            f"a candidate needs {format_gib(needed_bytes)} of memory, but only {format_gib(device.free_bytes)} are free"
        )
        return Availability(False, reason, Cause.LOW_MEMORY)
    return Availability(True, _describe_free(device))


def _excluded_reason(device: DeviceSnapshot, options: DeviceOptions) -> str | None:
    if device.uuid in options.excluded:
        return "excluded by --exclude"
    if options.included is not None:
        return None if device.uuid in options.included else "not named by --devices"
    if device.kind == CPU and not options.use_cpu:
        return "this machine has GPUs, and --devices does not name `cpu`"
    return None


def _invisible_reason(device: DeviceSnapshot, options: DeviceOptions) -> str | None:
    if device.kind == CPU or options.included is not None:
        return None
    if options.has_ambiguous_indices:
        return (
            "CUDA_VISIBLE_DEVICES contains indices, which CUDA and the driver count differently for GPUs of different "
            "models; use UUIDs there or in --devices, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    if options.visible is not None and device.uuid not in options.visible:
        return "not listed in CUDA_VISIBLE_DEVICES"
    return None


def _check_other_use(
    device: DeviceSnapshot, options: DeviceOptions, worker_pids: Collection[int], worker_bytes: int | None
) -> Availability | None:
    """Return the availability if processes of other programs use the device, otherwise None."""
    computing = [
        process for process in device.processes if process.kind == "compute" and process.pid not in worker_pids
    ]
    identified = [process for process in computing if process.identity is not None and not process.is_mps_server]
    others = tuple(process for process in identified if not _is_allowed(process, options))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return Availability(False, f"in use by {others[0]}{more}", Cause.IN_USE, others)
    unattributed = device.attribution_error
    if unattributed is not None and UNSEEN_PROCESSES not in options.allowed:
        other_bytes = device.used_bytes - _bytes_of_workers(device, worker_pids, worker_bytes)
        if other_bytes > UNATTRIBUTED_BYTES * (1 + len(worker_pids)):
            excess = ", more than the workers of this daemon use" if worker_pids else ""
            used = f"{format_gib(device.used_bytes)} of memory are in use{excess}"
            reason = f"{used} ({unattributed}); `--allow {UNSEEN_PROCESSES}` ignores this memory"
            return Availability(False, reason, Cause.IN_USE)
    # The utilisation is no sign of another user if this daemon's workers or allowed processes may cause it.
    explained = bool(worker_pids) or (
        UNSEEN_PROCESSES in options.allowed if unattributed is not None else bool(computing)
    )
    if device.utilisation_percent is not None and device.utilisation_percent > BUSY_PERCENT and not explained:
        reason = f"{device.utilisation_percent}% busy, but not with a worker of this daemon"
        return Availability(False, reason, Cause.BUSY)
    return None


def _bytes_of_workers(device: DeviceSnapshot, worker_pids: Collection[int], worker_bytes: int | None) -> int:
    if worker_bytes is not None:
        return worker_bytes
    return sum(process.used_bytes or 0 for process in device.processes if process.pid in worker_pids)


def _is_allowed(process: GpuProcess, options: DeviceOptions) -> bool:
    identity = process.identity or ProcessIdentity()
    return bool({identity.owner, identity.name} & options.allowed)


def _describe_free(device: DeviceSnapshot) -> str:
    memory = f"{format_gib(device.free_bytes)} of {format_gib(device.total_bytes)} of memory free"
    if device.kind == CPU:
        return f"{device.cores} cores, load {device.load_average:.1f}, {memory}"
    busy = "" if device.utilisation_percent is None else f", {device.utilisation_percent}% busy"
    unattributed = device.attribution_error
    limits = (
        ""
        if unattributed is None
        else f"; {unattributed}, so only the memory in use shows whether another process uses it"
    )
    errors = f"; {device.memory_errors} memory errors since the driver was loaded" if device.memory_errors else ""
    return memory + busy + limits + errors
