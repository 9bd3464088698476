"""Time limits and intervals of a supervisor and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits and intervals, in seconds on the supervisor's monotonic clock. Only `trainings_per_worker` is a
    count.
    """

    tick: float = 0.5
    """The longest time between two ticks while no message arrives."""
    database: float = 2.0
    """The longest time between two transactions while there is nothing to record, and the delay after a failed
    transaction.
    """
    lease: float = 30.0
    """The duration of a lease. A worker checkpoints and exits after this time without a heartbeat."""
    silence: float = 120.0
    """A training counts as hung after this time without a message."""
    loading: float = 900.0
    """The limit that replaces `silence` while a worker starts, loads images, builds a network or runs a user's own
    training function.
    """
    stop: float = 60.0
    """A worker is killed if it does not stop within this time after a request."""
    restart: float = 1.0
    """The delay before the next start after a worker ends before it is ready. The delay doubles with each such failure.
    """
    max_restart: float = 60.0
    """The longest delay before the next start."""
    checkpoint_cleanup: float = 10.0
    """The time between two deletions of checkpoints that no training needs."""
    checkpoint_collection: float = 60.0
    """The time between two deletions of checkpoint files whose rows another host has deleted."""
    disk_check: float = 300.0
    """The time between two measurements of the home folder, if its size is limited."""
    device_check: float = 2.0
    """The time between two decisions about the devices to use."""
    suspension: float = 10.0
    """If more time passes between two ticks, the daemon assumes that it was suspended, and extends its workers'
    deadlines.
    """
    trainings_per_worker: int = 500
    """A worker is replaced after this many trainings."""


DEFAULT_TIMEOUTS: Final = Timeouts()
