"""Snapshots of the devices of this machine and of the processes on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eatnas_daemon.lock_holder import LockHolder
from eatnas_report.formats import GIB

CPU: Final = "cpu"
"""The kind and the UUID of the CPU as a device."""
CUDA: Final = "cuda"
UNATTRIBUTED_BYTES: Final = GIB
"""Used memory up to this size that no process accounts for may belong to the driver or to one worker's CUDA context."""
MPS_PREFIX: Final = "nvidia-cuda-mps"
"""The prefix of the process names of NVIDIA's Multi-Process Service (MPS)."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of this machine. A field is None if the system hides it from this user."""

    owner: str | None = None
    name: str | None = None
    started_at: float | None = None
    """Unix time."""
    is_eatnas_worker: bool = False
    """Whether the process is a worker of an eatnas-db daemon. The workers of all daemons follow the same rules for
    sharing GPUs.
    """


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a GPU."""

    pid: int
    kind: str
    """`compute`, or `graphics` for a process that renders and does not compute."""
    used_bytes: int | None = None
    identity: ProcessIdentity | None = None
    """None if no process here has this pid: in a container, the driver may report pids of the host."""

    @property
    def is_mps_server(self) -> bool:
        """Whether the process is an MPS server. It computes for all its clients, including workers of this daemon."""
        return self.identity is not None and (self.identity.name or "").startswith(MPS_PREFIX)

    def __str__(self) -> str:
        identity = self.identity or ProcessIdentity()
        return printable(f"{identity.name or 'a process'} (pid {self.pid}, {identity.owner or 'owner unknown'})")


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The eatnas-db daemon that holds the lock of a device, according to the lock file."""

    user: str | None = None
    process: LockHolder | None = None
    error: str | None = None
    """The reason why the lock file cannot be read; None if it was read."""

    def __str__(self) -> str:
        return self.error or f"{self.user or 'owner unknown'}, {self.process or 'pid unknown'}"


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """The state of a device at one moment."""

    uuid: str
    kind: str
    """`cuda` or `cpu`."""
    name: str
    index: int | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    utilisation_percent: int | None = None
    processes: tuple[GpuProcess, ...] = ()
    processes_unknown: bool = False
    """True if the driver does not report the processes."""
    mig_enabled: bool = False
    compute_prohibited: bool = False
    """Whether an administrator has prohibited computing on the device."""
    compute_exclusive: bool = False
    """Whether the device admits only one computing process at a time."""
    memory_errors: int | None = None
    """The number of uncorrectable memory errors since the driver was loaded."""
    locked_by: LockOwner | None = None
    error: str | None = None
    """The reason why the device does not work; None if it works."""
    cores: int = 0
    load_average: float = 0.0
    """The average load of the CPU over the last minute."""

    @property
    def used_bytes(self) -> int:
        """The memory, in bytes, that all processes together use."""
        return self.total_bytes - self.free_bytes

    @property
    def label(self) -> str:
        """Return the name of the device for messages."""
        if self.kind == CPU:
            return "CPU" if self.uuid == CPU else self.name
        number = "" if self.index is None else f" {self.index}"
        return f"GPU{number} ({self.name}, {self.uuid})"

    @property
    def attribution_error(self) -> str | None:
        """Return the reason why the memory in use cannot be attributed to processes, or None if it can."""
        computing = [process for process in self.processes if process.kind == "compute"]
        if self.processes_unknown:
            return "the driver does not report the processes on it"
        if any(process.is_mps_server for process in computing):
            return "NVIDIA MPS hides the processes on it"
        if any(process.identity is None for process in computing):
            return "the driver reports process ids from outside this container"
        if not self.processes and self.used_bytes > UNATTRIBUTED_BYTES:
            return "memory is in use, but the driver reports no process, as is usual in a container"
        return None


CPU_DEVICE: Final = DeviceSnapshot(CPU, CPU, "processor")
"""The CPU without measurements. The database stores its name, `processor`, for CPUs."""


def printable(text: str) -> str:
    """Replace the characters that a terminal would interpret. The process names of other users may contain such
    characters.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
