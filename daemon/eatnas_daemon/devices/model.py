"""Devices as seen at one moment, the processes on them and the daemon that has locked them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CPU: Final = "cpu"


GIB: Final = 1 << 30


UNEXPLAINED_BYTES: Final = GIB
"""Memory that a driver keeps for itself; and what a worker's context takes beside what it asked for."""


MPS: Final = "nvidia-cuda-mps"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process as this machine knows it. What it does not tell to strangers is None."""

    owner: str | None = None
    name: str | None = None
    since: float | None = None
    polite: bool = False
    """Whether it is a worker of an eatnas-db, which keeps to the same manners."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a device."""

    pid: int
    kind: str
    """`compute`, or `graphics` for one that only draws."""
    used_bytes: int | None = None
    identity: Identity | None = None
    """None: there is no such process here, as in a container that is told the host's numbers."""

    @property
    def is_shared(self) -> bool:
        """Whether it stands for others: a server of MPS, which computes for all its clients, ours too."""
        return self.identity is not None and (self.identity.name or "").startswith(MPS)

    def __str__(self) -> str:
        who = self.identity or Identity()
        return printable(f"{who.name or 'a process'} (pid {self.pid}, {who.owner or 'owner unknown'})")


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The eatnas-db daemon that holds a device, as far as its lock file says."""

    user: str | None = None
    pid: int | None = None
    trouble: str | None = None
    """Why its lock file does not say."""

    def __str__(self) -> str:
        return self.trouble or f"{self.user or 'owner unknown'}, pid {self.pid or 'unknown'}"


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """A device and all that was seen of it."""

    uuid: str
    kind: str
    """`cuda` or `cpu`."""
    name: str
    index: int | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    utilisation: int | None = None
    holders: tuple[Holder, ...] = ()
    silent: bool = False
    """Whether the driver does not say who holds it."""
    mig: bool = False
    prohibited: bool = False
    exclusive: bool = False
    """Whether one process at a time may compute on it."""
    memory_errors: int | None = None
    locked_by: LockOwner | None = None
    trouble: str | None = None
    cores: int = 0
    load: float = 0.0

    @property
    def used_bytes(self) -> int:
        """Memory in use, by whomever."""
        return self.total_bytes - self.free_bytes

    @property
    def label(self) -> str:
        """How a sentence calls it."""
        return "processor" if self.kind == CPU else f"GPU {self.index} ({self.name}, {self.uuid})"

    @property
    def blindness(self) -> str | None:
        """Why its processes cannot be told apart, so that memory has to be compared instead."""
        computing = [one for one in self.holders if one.kind == "compute"]
        if self.silent:
            return "the driver does not say which processes use it"
        if any(one.is_shared for one in computing):
            return "its processes share it through NVIDIA's MPS and are not told apart"
        if any(one.identity is None for one in computing):
            return "the driver shows process numbers that are not of this container"
        if not self.holders and self.used_bytes > UNEXPLAINED_BYTES:
            return "memory is in use and the driver shows no process, as in a container"
        return None


PROCESSOR: Final = DeviceSnapshot(CPU, CPU, "processor")
"""The processor, as a slot knows it that nobody has probed."""


def in_gib(size: int) -> str:
    """A size of memory as people write it."""
    return f"{size / GIB:.1f} GiB"


def printable(text: str) -> str:
    """Without the terminal codes that a stranger's program may have for a name."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
