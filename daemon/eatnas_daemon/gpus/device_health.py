"""Exclude GPUs on which workers do not start, or on which several trainings in a row fail."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from eatnas_daemon.devices.availability import Availability, Cause
from eatnas_daemon.devices.sharing import MIN_BACKOFF_SECONDS, DeviceStatus, next_backoff
from eatnas_db.domain.rng import KeyedRng

MAX_UNANSWERED_PROBES: Final = 3
"""Workers leave a GPU that does not answer this many probes in a row."""
MAX_FAILED_CANDIDATES: Final = 2
"""A GPU is excluded after this many candidates in a row whose trainings ended their workers."""
PAUSED: Final = Availability(False, "paused; resume it with `eatnas-db devices resume`", Cause.PAUSED)


@dataclass(slots=True)
class DeviceHealth:
    """The recent failures of one GPU."""

    unanswered_probes: int = 0
    failed_candidates: set[int] = field(default_factory=set)
    """The candidates whose trainings ended their workers since the last success."""
    exclusions: int = 0
    """The number of exclusions in a row."""
    excluded_until: float = 0.0
    reason: str | None = None
    """The reason for the last exclusion."""


class HealthTracker:
    """The health of a supervisor's GPUs. Exclusions of a GPU become longer until a training finishes on it."""

    def __init__(self, rng: KeyedRng, min_backoff_seconds: float = MIN_BACKOFF_SECONDS) -> None:
        self._rng, self._min_backoff_seconds = rng, min_backoff_seconds
        self._devices: dict[str, DeviceHealth] = {}

    def record_failure(self, uuid: str, candidate_id: int, now: float) -> None:
        """Count a candidate whose training ended its worker. Exclude the GPU after several such candidates."""
        health = self._health(uuid)
        health.failed_candidates.add(candidate_id)
        if len(health.failed_candidates) >= MAX_FAILED_CANDIDATES:
            health.failed_candidates.clear()
            self.exclude(uuid, "the workers of several candidates in a row failed on it", now)

    def record_success(self, uuid: str) -> None:
        """Reset the failures of a GPU, because a training has finished on it."""
        health = self._health(uuid)
        health.failed_candidates.clear()
        health.exclusions, health.excluded_until, health.reason = 0, 0.0, None

    def exclude(self, uuid: str, reason: str, now: float) -> None:
        """Start no worker on a GPU for some time."""
        health = self._health(uuid)
        health.exclusions, seconds = next_backoff(health.exclusions, 0.0, self._rng, self._min_backoff_seconds)
        health.reason, health.excluded_until = reason, now + seconds

    def apply(self, status: DeviceStatus, paused: Collection[str], now: float) -> DeviceStatus:
        """Return `status`, or an unavailable status if the health of the GPU or a user's pause excludes it."""
        uuid, availability = status.device.uuid, status.availability
        health = self._health(uuid)
        health.unanswered_probes = health.unanswered_probes + 1 if availability.cause is Cause.ERROR else 0
        if uuid in paused:
            return DeviceStatus(status.device, PAUSED, evict=True)
        if health.unanswered_probes >= MAX_UNANSWERED_PROBES:
            return replace(status, evict=True)
        if availability.free and health.reason is not None and now < health.excluded_until:
            return DeviceStatus(status.device, Availability(False, health.reason, Cause.QUARANTINED), status.evict)
        return status

    def _health(self, uuid: str) -> DeviceHealth:
        return self._devices.setdefault(uuid, DeviceHealth())
