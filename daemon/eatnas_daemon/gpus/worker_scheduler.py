"""The interface of GPU schedulers, and the scheduler of a supervisor without GPUs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from eatnas_daemon.devices.sharing import DeviceStatus
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts


class WorkerScheduler(Protocol):
    """Decides which GPUs a supervisor uses, and the number of workers on each."""

    @property
    def statuses(self) -> Sequence[DeviceStatus]:
        """Return the status of each GPU at the last update."""

    @property
    def problem(self) -> str | None:
        """Return the reason outside this machine why no worker can train, or None."""

    @property
    def follows_demand(self) -> bool:
        """Return whether the number of workers depends on `set_demand`."""

    def set_demand(self, slots: int) -> None:
        """Set the demand: the slots of running trainings plus the slots that waiting candidates could use."""

    def update(self, slots: list[Slot], paused: Collection[str], timeouts: Timeouts) -> None:
        """Add slots on available GPUs, evict workers from unavailable GPUs, and remove empty slots."""

    def add_worker(self, pid: int) -> None:
        """Register a worker that was just started on a GPU."""

    def record_failure(self, uuid: str, candidate_id: int) -> None:
        """Count a training that failed on a GPU and ended its worker."""

    def record_success(self, uuid: str) -> None:
        """Reset the failures of a GPU, because a training has finished on it."""

    def available_bytes(self, uuid: str, slots: Collection[Slot]) -> int:
        """Return the bytes of GPU memory that the trainings in `slots` leave for one more training; 0 if unknown."""

    def load(self, uuid: str) -> float | None:
        """Return the utilisation of a GPU, from 0 to 1, or None if it is unknown."""

    def is_broken(self, uuid: str) -> bool:
        """Return whether a GPU does not answer."""

    def close(self) -> None:
        """Unlock all GPUs and stop probing them."""


class NoGpus:
    """The scheduler of a supervisor that uses no GPU."""

    statuses: Final[Sequence[DeviceStatus]] = ()
    problem: Final[str | None] = None
    follows_demand: Final = False

    def set_demand(self, slots: int) -> None:
        """Ignore the demand."""

    def update(self, slots: list[Slot], paused: Collection[str], timeouts: Timeouts) -> None:
        """Do nothing."""

    def add_worker(self, pid: int) -> None:
        """Ignore the worker."""

    def record_failure(self, uuid: str, candidate_id: int) -> None:
        """Ignore the failure."""

    def record_success(self, uuid: str) -> None:
        """Ignore the success."""

    def available_bytes(self, uuid: str, slots: Collection[Slot]) -> int:
        """Return 0."""
        return 0

    def load(self, uuid: str) -> float | None:
        """Return None."""
        return None

    def is_broken(self, uuid: str) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Do nothing."""


NO_GPUS: Final = NoGpus()
