"""The training that a worker runs: its assignment, its progress, and the resources that it uses."""

from __future__ import annotations

from dataclasses import dataclass, field

from eatnas_daemon.workers.assignments import Assignment
from eatnas_db.leases import LeaseToken
from eatnas_db.training_record import ResourceUse
from eatnas_protocol.messages import Message, Progress


@dataclass(slots=True)
class CpuMeter:
    """The CPU load of a process between two measurements."""

    measured_at: float
    cpu_seconds: float
    load: float | None = None
    """The CPU seconds per second between the last two measurements; None before the second measurement."""

    def measure(self, now: float, cpu_seconds: float) -> None:
        """Update the load. A second measurement at the same time does not change the load."""
        if now > self.measured_at:
            self.load = (cpu_seconds - self.cpu_seconds) / (now - self.measured_at)
            self.measured_at, self.cpu_seconds = now, cpu_seconds


@dataclass(slots=True)
class GpuMemory:
    """The GPU memory of a worker: the number of bytes that the worker reports, and the part that the driver already
    shows.
    """

    reported_bytes: int = 0
    sampled_bytes: int = 0
    visible_bytes: int = 0

    def sample(self) -> None:
        """Count the memory that the worker had reported by the previous probe as visible. Call this method at each
        probe of the driver.
        """
        self.visible_bytes = min(self.sampled_bytes, self.reported_bytes)
        self.sampled_bytes = self.reported_bytes


@dataclass(slots=True)
class TrainingTime:
    """The time that a training spends in steps, and its share of the device during this time.

    From time to time, the worker reports the seconds that it has spent in steps. `observe` collects the shares since
    the last such report.
    """

    step_seconds: float = 0.0
    device_seconds: float = 0.0
    _observed_seconds: float = 0.0
    _shared_seconds: float = 0.0
    _last_share: float = 1.0

    def observe(self, seconds: float, share: float) -> None:
        """Add a period: the training had `share` of its device during the last `seconds`."""
        self._observed_seconds += seconds
        self._shared_seconds += seconds * share
        self._last_share = share

    def report(self, step_seconds: float) -> None:
        """Store the seconds that the worker reports as spent in steps since the assignment."""
        share = self._shared_seconds / self._observed_seconds if self._observed_seconds > 0 else self._last_share
        self.device_seconds += max(0.0, step_seconds - self.step_seconds) * share
        self.step_seconds = max(self.step_seconds, step_seconds)
        self._observed_seconds = self._shared_seconds = 0.0

    @property
    def share(self) -> float:
        """Return the share of the device that the training has had so far."""
        return self.device_seconds / self.step_seconds if self.step_seconds > 0 else self._last_share


@dataclass(slots=True)
class RunningTraining:
    """A training in a worker, from its assignment until its last report is recorded."""

    assignment: Assignment
    cpu: CpuMeter
    time: TrainingTime = field(default_factory=TrainingTime)
    phase: str = "loading"
    progress: Progress | None = None
    longest_silence: float = 0.0
    """The longest time between two messages so far, in seconds."""
    images_per_second: float | None = None
    resource_uses: dict[int, ResourceUse] = field(default_factory=dict)
    """The resources that each epoch used, by the number of the epoch."""

    @property
    def token(self) -> LeaseToken:
        """Return the token of the training's lease."""
        return self.assignment.leased.token

    @property
    def has_data(self) -> bool:
        """Return whether the worker has loaded the images."""
        return self.phase != "loading"

    def is_subject_of(self, message: Message) -> bool:
        """Return whether a message is about this attempt rather than an earlier one."""
        subject = getattr(message, "candidate", None), getattr(message, "attempt", None)
        return subject == (self.token.candidate, self.token.attempt)

    def update(self, progress: Progress, silence: float) -> None:
        """Store a progress message that arrived `silence` seconds after the previous message."""
        if self.progress is not None:
            self.longest_silence = max(self.longest_silence, silence)
            self.images_per_second = self._rate(self.progress, progress) or self.images_per_second
        self.progress, self.phase = progress, "training"

    def _rate(self, previous: Progress, current: Progress) -> float | None:
        """Return the number of images per second in the training steps between two progress messages."""
        batches = (current.epoch - previous.epoch) * current.batches + current.batch - previous.batch
        seconds = current.device_seconds - previous.device_seconds
        if batches <= 0 or seconds <= 0:
            return None
        return float(batches * self.assignment.message.training["batch_size"] / seconds)
