"""A slot: the place of one worker, what the worker has in hand, and how long it may be silent."""

from __future__ import annotations

from dataclasses import dataclass, field

from eatnas_daemon.devices.model import CPU, CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.workers.assignments import Assignment
from eatnas_daemon.workers.launcher import WorkerProcess
from eatnas_db.domain.states import FailureKind
from eatnas_db.leases import LeaseToken
from eatnas_db.training_record import ResourceUse
from eatnas_protocol.messages import (
    Checkpointed,
    Exit,
    Failed,
    Finished,
    Message,
    Phase,
    Progress,
    Ready,
    Released,
    Unavailable,
)

FULL_DISK = "disk full"
"""The phase of a worker that waits for room to write a checkpoint."""
SLOW_PHASES = frozenset({"loading", "building"})
EARLY = 5
"""After so many candidates a worker's own memory is what it should stay at."""
GROWN = 1.5
"""A worker whose own memory is so many times what it was early on is replaced."""
USUAL_GAPS = 20
"""A training hangs when it is silent for so many times its longest silence so far."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the supervisor waits for what, in seconds of its own monotonic clock."""

    rest: float = 0.5
    """Between two ticks when nothing happens."""
    flush: float = 2.0
    """Between two looks at the record when nothing is known to have changed, and after an error of it."""
    lease: float = 30.0
    """A worker that hears nothing for so long checkpoints and leaves."""
    silence: float = 120.0
    """A training that says nothing for so long hangs."""
    loading: float = 900.0
    """The same while a worker starts, loads images or builds a network."""
    obedience: float = 60.0
    """A worker that was told to stop and has not is killed."""
    respawn: float = 1.0
    """Before the next try when a worker ended before it was ready; doubled each time, up to `longest_respawn`."""
    longest_respawn: float = 60.0
    collect: float = 10.0
    """Between two looks for checkpoints that nobody needs."""
    room: float = 300.0
    """Between two looks at what the home takes on the disk, where that is bounded."""
    devices: float = 2.0
    """Between two decisions about which devices may be used."""
    candidates: int = 500
    """So many trainings, and a worker is replaced by a fresh one."""
    suspended: float = 10.0
    """A tick so late means that this process was frozen, and its workers perhaps too."""


TIMEOUTS = Timeouts()


@dataclass(slots=True)
class Slot:
    """A place for one worker, on a device."""

    number: int
    device: DeviceSnapshot = CPU_DEVICE
    may_start: bool = True
    """Whether a worker may be started now; on a GPU that is decided anew each time."""
    proven: bool = True
    """Whether the worker has been seen on its own device."""
    doubts: int = 0
    evicted: str | None = None
    """Why the worker has to leave the device, if it has to."""
    hello_at: float = 0.0
    held_bytes: int = 0
    """Of the device's memory, by the worker's own account."""
    sampled_bytes: int = 0
    seen_bytes: int = 0
    """What of it the driver surely told already: as of the decision before the last."""
    images_per_second: float | None = None
    uses: dict[int, ResourceUse] = field(default_factory=dict)
    """What the training in hand took of the device, by epoch."""
    cpu_seen: tuple[float, float] = (0.0, 0.0)
    """When the worker's use of the processor was looked at last, and how much it was."""
    cpu_load: float | None = None
    """The share of a core that it used before that look; unknown at a training's start."""
    trained: int = 0
    early_bytes: int = 0
    """The worker's own memory after its first few candidates."""
    process: WorkerProcess | None = None
    hello: Ready | None = None
    worker_id: int | None = None
    work: Assignment | None = None
    progress: Progress | None = None
    phase: str = ""
    reports: list[Message] = field(default_factory=list)
    heard_at: float = 0.0
    longest_silence: float = 0.0
    stop_by: float | None = None
    leaving: bool = False
    kill_reason: tuple[FailureKind, str] | None = None
    ended: bool = False
    status: int = 0
    failed_starts: int = 0
    unfit: str | None = None
    """Why the worker cannot train here, by its own word."""
    start_error: str | None = None
    launch_after: float = 0.0

    def hear(self, message: Message, now: float) -> bool:
        """Take in one report. Whether it counts: a late word about what is in hand no more is nobody's."""
        silence, self.heard_at = now - self.heard_at, now
        token = None if self.work is None else self.work.leased.token
        if not isinstance(message, Ready | Unavailable) and (token is None or not _is_about(message, token)):
            return False
        match message:
            case Progress():
                if self.progress is not None:
                    self.longest_silence = max(self.longest_silence, silence)
                self.images_per_second = self._rate(message) or self.images_per_second
                self.progress, self.phase = message, "training"
                self.held_bytes = message.memory_bytes
            case Phase():
                self.phase = message.phase
            case Ready():
                self.hello, self.failed_starts, self.start_error = message, 0, None
                self.hello_at, self.held_bytes = now, message.marker_bytes
                self.reports.append(message)
            case Unavailable():
                self.unfit = message.reason
            case Checkpointed():
                self.phase = "training"
                self.reports.append(message)
            case _:
                self.reports.append(message)
        return True

    def measure(self, epoch: int, now: float, gpu_load: float | None) -> None:
        """Note what an epoch that has just ended took of the device."""
        if self.process is None:
            return
        if self.on_gpu:
            self.uses[epoch] = ResourceUse(self.held_bytes, gpu_load)
            return
        (before, spent), seconds = self.cpu_seen, self.process.cpu_seconds
        memory_bytes = self.process.memory_bytes
        if not memory_bytes:  # It is gone, and its last words are read.
            return
        if now > before:
            self.cpu_seen, self.cpu_load = (now, seconds), (seconds - spent) / (now - before)
        # Epochs that end between two looks have what was measured over all of them.
        self.uses[epoch] = ResourceUse(memory_bytes, self.cpu_load)

    def take(self, work: Assignment, now: float) -> None:
        """The worker was given a candidate."""
        self.work, self.progress, self.phase = work, None, "loading"
        self.heard_at, self.longest_silence, self.stop_by = now, 0.0, None
        self.images_per_second = None
        self.uses.clear()
        self.cpu_load = None
        # What the one before held is given back, and is not to be taken for what this one holds already.
        self.held_bytes = self.sampled_bytes = self.seen_bytes = 0
        if self.process is not None and not self.on_gpu:
            self.cpu_seen = now, self.process.cpu_seconds

    def drop(self) -> None:
        """The worker has nothing in hand any more."""
        self.work, self.progress, self.phase = None, None, ""

    def vacate(self, now: float, patience: Timeouts) -> None:
        """The worker is gone; when the next one may start."""
        if self.hello is None:
            self.not_started(now, patience, self.unfit)
        self.drop()
        self.process = self.hello = self.worker_id = self.stop_by = self.kill_reason = None
        self.ended, self.leaving, self.status, self.evicted, self.unfit = False, False, 0, None, None
        self.may_start, self.proven = self.may_start and not self.on_gpu, not self.on_gpu
        self.doubts = self.held_bytes = self.sampled_bytes = self.seen_bytes = self.trained = 0

    def evict(self, why: str, now: float, patience: Timeouts) -> None:
        """Have the worker give back what it has in hand, and leave; it is not its candidate's doing."""
        self.may_start = False
        if self.process is None or self.leaving:
            return
        self.process.send(Exit())
        self.evicted, self.leaving, self.stop_by = why, True, now + patience.obedience

    def count(self, memory_bytes: int, now: float, patience: Timeouts) -> None:
        """The worker has ended a training; one that has grown old or fat leaves, for a fresh one to start."""
        self.trained += 1
        if self.trained == EARLY:
            self.early_bytes = memory_bytes
        grown = self.trained > EARLY and memory_bytes > GROWN * self.early_bytes
        if self.trained >= patience.candidates or grown:
            why = "its memory has grown by half" if grown else f"it has trained {self.trained} candidates"
            self.renew(why, now, patience)

    def renew(self, why: str, now: float, patience: Timeouts) -> None:
        """Have the worker leave, for a fresh one to start."""
        may_start = self.may_start
        self.evict(f"replaced by a fresh worker: {why}", now, patience)
        self.may_start = may_start

    def sample(self) -> None:
        """Note what the worker says to hold, for the driver's next look."""
        self.seen_bytes, self.sampled_bytes = min(self.sampled_bytes, self.held_bytes), self.held_bytes

    @property
    def busy(self) -> bool:
        """Whether a training is in hand, or was just given."""
        return self.work is not None and not self.final

    @property
    def outstanding_bytes(self) -> int:
        """What its training is expected to take of the device's memory beyond what can be seen of it."""
        return max(0, self.work.expected_bytes - self.seen_bytes) if self.busy and self.work is not None else 0

    @property
    def told_bytes(self) -> int:
        """What the worker may hold by now, by its own account; by expectation where it has not said yet."""
        if self.busy and self.work is not None and self.progress is None:
            return self.work.expected_bytes
        return self.held_bytes

    def not_started(self, now: float, patience: Timeouts, error: str | None = None) -> None:
        """No worker could be started, or it ended before it was ready; each next try waits longer."""
        self.failed_starts, self.start_error = self.failed_starts + 1, error
        self.launch_after = now + min(patience.respawn * 2 ** (self.failed_starts - 1), patience.longest_respawn)

    def verdict(self, now: float, patience: Timeouts) -> tuple[FailureKind, str] | None:
        """Why this slot's worker has to be killed, if it has to be."""
        if self.stop_by is not None and now > self.stop_by:
            if self.evicted is not None:
                return FailureKind.LOST, f"the worker did not leave within {patience.obedience:g} s: {self.evicted}"
            return FailureKind.HANG, f"the worker did not stop within {patience.obedience:g} s"
        silence = now - self.heard_at
        if self.hello is None:
            if silence > patience.loading:
                return FailureKind.HANG, f"the worker was not ready within {patience.loading:g} s"
            return None
        if self.work is None:
            return None
        left = self.work.seconds_left
        if left is not None and self.progress is not None and self.progress.device_seconds > left:
            limit = left + self.work.leased.spent_seconds
            return FailureKind.TIME_LIMIT, f"trained for more than budget.candidate_seconds ({limit:g} s)"
        slow = self.phase in SLOW_PHASES
        allowed = patience.loading if slow else max(patience.silence, USUAL_GAPS * self.longest_silence)
        if silence > allowed:
            return FailureKind.HANG, f"no sign of life for {allowed:.0f} s while {self.phase}"
        return None

    def _rate(self, now: Progress) -> float | None:
        """Images a second since the progress before, by the seconds in steps."""
        before, work = self.progress, self.work
        if before is None or work is None:
            return None
        batches = (now.epoch - before.epoch) * now.batches + now.batch - before.batch
        seconds = now.device_seconds - before.device_seconds
        if batches <= 0 or seconds <= 0:
            return None
        return float(batches * work.assign.training["batch_size"] / seconds)

    @property
    def on_gpu(self) -> bool:
        """Whether this is not a place on the processor."""
        return self.device.kind != CPU

    @property
    def idle(self) -> bool:
        """Whether its worker waits for a candidate."""
        ready = self.worker_id is not None and self.proven and not self.ended and not self.leaving
        return ready and (self.work is None or self.final)

    @property
    def final(self) -> bool:
        """Whether the worker has said its last word about what it had in hand."""
        return any(isinstance(report, Finished | Released | Failed) for report in self.reports)


def _is_about(message: Message, token: LeaseToken) -> bool:
    """Whether a worker's word is about that attempt."""
    return (getattr(message, "candidate", None), getattr(message, "attempt", None)) == (token.candidate, token.attempt)
