"""Read the state of this machine's GPUs and processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from eatnas_daemon.devices.locks import LOCKS, holder_of
from eatnas_daemon.devices.model import PROCESSOR, DeviceSnapshot, Holder, Identity, LockOwner
from eatnas_daemon.devices.nvml import Card, Nvml

QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux tells a container how many microseconds of all cores together it may take in how many."""


@dataclass(frozen=True, slots=True)
class Processor:
    """The cores and the memory of this machine."""

    cores: int
    load: float
    total_bytes: int
    free_bytes: int


def who_is(pid: int) -> Identity | None:
    """A process of this machine, or None when there is none of this number."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            owner, name, since = process.username(), process.name(), process.create_time()
            with suppress(psutil.AccessDenied):
                return Identity(owner, name, since, polite=_is_worker(process.cmdline()))
            return Identity(owner, name, since)
    except psutil.AccessDenied:
        return Identity()
    except psutil.NoSuchProcess:
        # Where /proc is mounted with hidepid, a stranger's process is there all the same.
        with suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except (ProcessLookupError, OverflowError):
                return None
        return Identity()


def _is_worker(arguments: Sequence[str]) -> bool:
    return any(argument.startswith("eatnas_training.") for argument in arguments)


def measure_processor(quota: Path = QUOTA) -> Processor:
    """The cores this process may use, in a container its share of them, the load of the last minute, and the memory."""
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):  # it may be missing, or "max"
        allowed, period = map(int, quota.read_text().split())
        cores = max(1, min(cores, allowed // period))
    return Processor(cores, psutil.getloadavg()[0], memory.total, memory.available)


def probe(
    nvml: Nvml,
    processes: Callable[[int], Identity | None] = who_is,
    cpu: Callable[[], Processor] = measure_processor,
    folder: Path = LOCKS,
) -> list[DeviceSnapshot]:
    """Look at every device, the processor last."""
    seen = [_probed(card, processes, holder_of(card.uuid, folder)) for card in nvml.cards()]
    return [*seen, processor_now(cpu)]


def processor_now(cpu: Callable[[], Processor] = measure_processor) -> DeviceSnapshot:
    """The processor, looked at."""
    now = cpu()
    return replace(PROCESSOR, total_bytes=now.total_bytes, free_bytes=now.free_bytes, cores=now.cores, load=now.load)


def _probed(card: Card, processes: Callable[[int], Identity | None], locker: LockOwner | None) -> DeviceSnapshot:
    clients = card.clients or ()
    return DeviceSnapshot(
        uuid=card.uuid,
        kind="cuda",
        name=card.name,
        index=card.index,
        total_bytes=card.total_bytes,
        free_bytes=card.free_bytes,
        utilisation=card.utilisation,
        holders=tuple(Holder(one.pid, one.kind, one.used_bytes, processes(one.pid)) for one in clients),
        silent=card.clients is None,
        mig=card.mig,
        prohibited=card.prohibited,
        exclusive=card.exclusive,
        memory_errors=card.memory_errors,
        locked_by=locker,
        trouble=card.trouble,
    )
