"""Workers that share a process: each worker has a lane, and the process computes for the lanes in turn.

The supervisor sees a `WorkerProcess` for each lane. Only a kill affects all lanes of a process: the training whose turn
it was fails, and the trainings of the other lanes are lost.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from eatnas_daemon.devices.model import CPU, CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.workers.launcher import Launcher, Pipes
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_protocol.lane_turns import NOBODY, read_turn
from eatnas_protocol.messages import Command, Exit


class LaneGroup:
    """A process, the pipes of its unused lanes, and the file with the number of the current lane."""

    def __init__(self, launcher: Launcher, slot: int, device: DeviceSnapshot, lanes: int) -> None:
        turn_fd = create_turn_file()
        try:
            self.process, pipes = launcher.start(slot, device, lanes=lanes, turn_fd=turn_fd)
        except OSError:
            os.close(turn_fd)
            raise
        self._turn_fd: int | None = turn_fd
        self._unused = list(enumerate(pipes))
        self.open_lanes = 0
        """The number of workers whose pipes are open."""

    @property
    def accepts_workers(self) -> bool:
        """Return whether another worker can have a lane."""
        return bool(self._unused) and self.process.poll() is None

    @property
    def turn(self) -> int:
        """Return the number of the lane whose turn it is, or was when the process ended."""
        return NOBODY if self._turn_fd is None else read_turn(self._turn_fd)

    def add_worker(self) -> LaneProcess:
        """Return the worker of the next lane."""
        number, pipes = self._unused.pop(0)
        self.open_lanes += 1
        return LaneProcess(self, number, pipes)

    def close_lane(self) -> None:
        """Record that a worker has ended. The process accepts no further worker, and ends with its last lane."""
        self.open_lanes -= 1
        for _, pipes in self._unused:
            for descriptor in pipes:
                os.close(descriptor)
        self._unused.clear()
        if not self.open_lanes and self._turn_fd is not None:
            os.close(self._turn_fd)
            self._turn_fd = None


def create_turn_file() -> int:
    """Return a descriptor of an unnamed file. The file is in memory if possible, because a full disk must not end a
    turn.
    """
    if sys.platform == "linux":
        return os.memfd_create("turn")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class LaneProcess(WorkerProcess):
    """The worker of one lane."""

    def __init__(self, group: LaneGroup, number: int, pipes: Pipes) -> None:
        super().__init__(group.process, *pipes)
        self._group, self._number = group, number
        self._was_asked_to_exit = False
        self._cause: str | None = None

    @property
    def takes_turns(self) -> bool:
        """See `WorkerProcess.takes_turns`."""
        return True

    @property
    def waits_for_turn(self) -> bool:
        """Return whether another lane has its turn, so that this lane cannot report."""
        return self._group.turn not in (NOBODY, self._number)

    @property
    def holds_turn(self) -> bool:
        """See `WorkerProcess.holds_turn`."""
        return self._group.turn == self._number

    @property
    def loss_reason(self) -> str | None:
        """Return the reason why the process ended if another lane is the cause, otherwise None."""
        return self._cause

    def send(self, command: Command) -> None:
        """See `WorkerProcess.send`."""
        self._was_asked_to_exit = self._was_asked_to_exit or isinstance(command, Exit)
        super().send(command)

    def kill(self) -> None:
        """Kill the process with all of its lanes."""
        if self._group.process.returncode is None:  # After the process is reaped, another process may have its pid.
            super().kill()

    def reap(self, now: float) -> int | None:
        """See `WorkerProcess.reap`. A lane that was asked to exit ends without its process."""
        if self._was_asked_to_exit and self._group.open_lanes > 1 and self._group.process.poll() is None:
            self._close_pipes()
            return 0
        return super().reap(now)

    def _close_pipes(self) -> None:
        status, turn = self._group.process.returncode, self._group.turn
        if status and turn not in (NOBODY, self._number):
            self._cause = "the process was lost while it trained another candidate"
        super()._close_pipes()
        self._group.close_lane()


@dataclass(frozen=True, slots=True)
class LaneLauncher:
    """Starts one process for several workers of a GPU.

    If `on_processor` is true, workers on the CPU share processes too. This is not faster, because the lanes compute one
    after another.
    """

    launcher: Launcher
    lanes: int
    on_processor: bool = False
    groups: dict[tuple[str, str], LaneGroup] = field(default_factory=dict)
    """The newest process for each device and arithmetic."""

    def log_file(self, slot: int) -> Path:
        """Return the log file for the output that a slot's workers write outside trainings."""
        return self.launcher.log_file(slot)

    def with_arithmetic(self, arithmetic: str) -> LaneLauncher:
        """Return a copy of this launcher whose workers use another arithmetic."""
        return replace(self, launcher=self.launcher.with_arithmetic(arithmetic))

    def launch(self, slot: int, device: DeviceSnapshot = CPU_DEVICE) -> WorkerProcess:
        """Start a worker in a lane of a running process, or in the first lane of a new process. Raises `OSError`."""
        if device.kind == CPU and not self.on_processor:
            return self.launcher.launch(slot, device)
        key = device.uuid, self.launcher.arithmetic
        group = self.groups.get(key)
        if group is None or not group.accepts_workers:
            group = self.groups[key] = LaneGroup(self.launcher, slot, device, self.lanes)
        return group.add_worker()
