"""The interface between a supervisor and the scheduler of its GPUs, and the scheduler of a host without GPUs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from eatnas_daemon.devices.sharing import DeviceStatus
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts


class WorkerScheduler(Protocol):
    """Decides which GPUs a supervisor uses and how many workers run on each."""

    @property
    def statuses(self) -> Sequence[DeviceStatus]:
        """Return the GPUs as of the last update."""

    @property
    def problem(self) -> str | None:
        """Return why no worker can train on any device, if a resource outside this machine is the cause."""

    @property
    def follows_demand(self) -> bool:
        """Return whether the number of workers depends on `set_demand`."""

    def set_demand(self, slots: int) -> None:
        """Set the number of slots that running trainings take and waiting candidates could take."""

    def update(self, slots: list[Slot], paused: Collection[str], timeouts: Timeouts) -> None:
        """Add slots on GPUs that are free, evict workers from GPUs that are not, and remove empty slots."""

    def add_worker(self, pid: int) -> None:
        """Register a worker that was just started on a GPU."""

    def record_failure(self, uuid: str, candidate_id: int) -> None:
        """Note that a training on a GPU failed in a way that its worker does not survive."""

    def record_success(self, uuid: str) -> None:
        """Note that a training on a GPU finished."""

    def available_bytes(self, uuid: str, slots: Collection[Slot]) -> int:
        """Return the memory of a GPU for one more training besides those in `slots`; 0 if it is not known."""

    def load(self, uuid: str) -> float | None:
        """Return the utilization of a GPU between 0 and 1, or None if it is not known."""

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
        """Leave the slots as they are."""

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
