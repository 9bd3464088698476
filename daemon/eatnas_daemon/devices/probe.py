"""Take snapshots of the GPUs and the CPU of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from eatnas_daemon.devices.locks import LOCK_FOLDER, find_lock_owner
from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot, ProcessIdentity
from eatnas_daemon.devices.nvml import Nvml

CGROUP_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""The file with the CPU quota of a container: microseconds of CPU time, and the length of the period."""


def probe_devices(nvml: Nvml, folder: Path = LOCK_FOLDER) -> list[DeviceSnapshot]:
    """Return a snapshot of every device, the CPU last. `folder` holds the lock files."""
    gpus = [
        replace(
            gpu,
            processes=tuple(replace(process, identity=identify_process(process.pid)) for process in gpu.processes),
            locked_by=find_lock_owner(gpu.uuid, folder),
        )
        for gpu in nvml.read_gpus()
    ]
    return [*gpus, probe_cpu()]


def probe_cpu(quota: Path = CGROUP_CPU_QUOTA) -> DeviceSnapshot:
    """Return a snapshot of the CPU, with the cores that this process or its container may use."""
    memory = psutil.virtual_memory()
    return replace(
        CPU_DEVICE,
        total_bytes=memory.total,
        free_bytes=memory.available,
        cores=count_cores(quota),
        load_average=psutil.getloadavg()[0],
    )


def count_cores(quota: Path = CGROUP_CPU_QUOTA) -> int:
    """Return the number of physical cores that this process or its container may use."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):  # the file may be missing or contain "max"
        allowed, period = map(int, quota.read_text().split())
        cores = max(1, min(cores, allowed // period))
    return cores


def identify_process(pid: int) -> ProcessIdentity | None:
    """Return the identity of a process of this machine, or None if there is no such process."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            identity = ProcessIdentity(process.username(), process.name(), process.create_time())
            with suppress(psutil.AccessDenied):
                identity = replace(identity, is_eatnas_worker=_is_worker(process.cmdline()))
            return identity
    except psutil.AccessDenied:
        return ProcessIdentity()
    except psutil.NoSuchProcess:
        # If /proc is mounted with hidepid, it hides the processes of other users, although they exist.
        with suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except (ProcessLookupError, OverflowError):
                return None
        return ProcessIdentity()


def _is_worker(arguments: Sequence[str]) -> bool:
    return any(argument.startswith("eatnas_training.") for argument in arguments)
