"""Time limits and intervals of a supervisor and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits and intervals in seconds of the supervisor's monotonic clock, and the working life of a worker."""

    tick: float = 0.5
    """Longest time between two ticks while no message arrives."""
    database: float = 2.0
    """Longest time between two transactions while no change is known, and the delay after a failed one."""
    lease: float = 30.0
    """Length of a lease: a worker checkpoints and exits after this time without a heartbeat."""
    silence: float = 120.0
    """A training hangs after this time without a message."""
    loading: float = 900.0
    """The same limit while a worker starts, loads images, builds a network or runs a training of the user's own."""
    stop: float = 60.0
    """A worker is killed if it does not stop within this time after a request."""
    restart: float = 1.0
    """Delay before the next start of a worker that ended before it was ready; doubles with each failure."""
    max_restart: float = 60.0
    """Longest such delay."""
    checkpoint_cleanup: float = 10.0
    """Time between two searches for checkpoints that no training needs."""
    checkpoint_collection: float = 60.0
    """Time between two searches for checkpoint files that another host's transaction has made obsolete."""
    disk_check: float = 300.0
    """Time between two measurements of the home folder, if its size is limited."""
    device_check: float = 2.0
    """Time between two decisions on which devices to use."""
    suspension: float = 10.0
    """A tick this late means that this process was suspended, and perhaps its workers with it."""
    trainings_per_worker: int = 500
    """A worker is replaced after this many trainings."""


DEFAULT_TIMEOUTS: Final = Timeouts()
