"""Start worker processes. Each worker is a new Python interpreter in a new session, with two pipes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.devices.placement import torch_device_name, worker_environment
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_db.domain.arithmetic import NATIVE, worker_variables
from eatnas_db.interpreter import python_command

TRAINING_PROGRAM: Final = ("-m", "eatnas_training.worker")
"""The arguments with which the Python interpreter starts a worker."""
Pipes = tuple[int, int]
"""The supervisor's ends of a worker's pipes: for commands and for reports."""


class WorkerLauncher(Protocol):
    """Starts the workers of a supervisor."""

    def log_file(self, slot: int) -> Path:
        """Return the log file for the output that a slot's workers write outside trainings."""

    def with_arithmetic(self, arithmetic: str) -> WorkerLauncher:
        """Return a copy of this launcher whose workers use another arithmetic."""

    def launch(self, slot: int, device: DeviceSnapshot = CPU_DEVICE) -> WorkerProcess:
        """Start a worker. The worker sends `Ready` when it can train. Raises `OSError`."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts workers on this machine. Tests and benchmarks replace `program` with a simulated worker.

    `program` holds the first arguments of the interpreter, and `launch` appends the other arguments. `arithmetic` is
    the arithmetic that the recipes of the workers' trainings name (`domain.arithmetic`). `environment` is the base of
    the workers' environment, or None for the environment of this process.
    """

    log_folder: Path
    program: Sequence[str] = TRAINING_PROGRAM
    arithmetic: str = NATIVE
    environment: Mapping[str, str] | None = None

    def log_file(self, slot: int) -> Path:
        """Return the log file for the output that a slot's workers write outside trainings."""
        return self.log_folder / f"worker-{slot}.log"

    def with_arithmetic(self, arithmetic: str) -> Launcher:
        """Return a copy of this launcher whose workers use another arithmetic."""
        return replace(self, arithmetic=arithmetic)

    def launch(self, slot: int, device: DeviceSnapshot = CPU_DEVICE) -> WorkerProcess:
        """Start a worker that sees only its own device and sends `Ready` when it can train. Raises `OSError`."""
        process, [(command_fd, report_fd)] = self.start(slot, device)
        return WorkerProcess(process, command_fd, report_fd)

    def start(
        self, slot: int, device: DeviceSnapshot, *, lanes: int = 1, turn_fd: int | None = None
    ) -> tuple[subprocess.Popen[bytes], list[Pipes]]:
        """Start a worker with a pair of pipes for each lane. Raises `OSError`.

        `turn_fd` is described in `eatnas_protocol.lane_turns`. A worker with one lane does not need `turn_fd`.
        """
        environment = os.environ if self.environment is None else self.environment
        own, inherited = [], [] if turn_fd is None else [turn_fd]
        arguments = [] if turn_fd is None else ["--turn-fd", str(turn_fd)]
        worker_fds: list[int] = []
        try:
            for _ in range(lanes):
                worker_in, command_fd = os.pipe()
                report_fd, worker_out = os.pipe()
                own.append((command_fd, report_fd))
                worker_fds += [worker_in, worker_out]
                arguments += ["--in-fd", str(worker_in), "--out-fd", str(worker_out)]
            with self._open_log(slot) as log:
                process = subprocess.Popen(
                    python_command(*self.program, *arguments, "--device", torch_device_name(device)),
                    env={**worker_variables(environment, self.arithmetic), **worker_environment(device)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(*worker_fds, *inherited),
                    start_new_session=True,
                )
        except OSError:
            for pipes in own:
                for descriptor in pipes:
                    os.close(descriptor)
            raise
        finally:
            for descriptor in worker_fds:
                os.close(descriptor)
        return process, own

    def _open_log(self, slot: int) -> BinaryIO:
        try:
            self.log_folder.mkdir(parents=True, exist_ok=True)
            return self.log_file(slot).open("ab")
        except OSError:  # On a full disk, the log is lost, but the training continues.
            return Path(os.devnull).open("ab")
