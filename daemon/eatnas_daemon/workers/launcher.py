"""Worker processes: fresh interpreters, in sessions of their own, spoken to over two pipes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import psutil

from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.devices.placement import torch_device_name, worker_environment
from eatnas_daemon.workers.process_tree import kill_process_tree
from eatnas_protocol.framing import Decoder, encode
from eatnas_protocol.messages import Command, Message

PIECE_BYTES: Final = 1 << 16
REAPED_SECONDS: Final = 5.0
KILLED_SECONDS: Final = 1.0
TRAINING: Final = ("-m", "eatnas_training.worker")
"""The arguments of a Python interpreter that start a worker."""


class WorkerProcess:
    """A running worker: send it messages, receive what it says, see it end."""

    def __init__(self, process: subprocess.Popen[bytes], down: int, up: int) -> None:
        self._process, self._down, self.up = process, down, up
        self._decoder = Decoder()
        self._closed = False
        os.set_blocking(up, False)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def suspended(self) -> bool:
        """Whether somebody has stopped it (SIGSTOP, Ctrl-Z), so that it cannot say anything."""
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        return False

    @property
    def memory_bytes(self) -> int:
        """What it holds of the machine's memory; 0 once it is gone."""
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    @property
    def cpu_seconds(self) -> float:
        """What it has used of the processor since its start; 0 once it is gone."""
        with contextlib.suppress(psutil.Error):
            return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))
        return 0.0

    def send(self, message: Command) -> None:
        """Say something. To a worker that is gone it is not said: its end is seen by `receive`."""
        if self._closed:  # the descriptor's number may be somebody else's by now
            return
        content = encode(message)
        with contextlib.suppress(BrokenPipeError):
            while content:
                content = content[os.write(self._down, content) :]

    def receive(self) -> tuple[list[Message], bool]:
        """What it said since the last call, without waiting, and whether that was its last."""
        messages: list[Message] = []
        while True:
            try:
                piece = os.read(self.up, PIECE_BYTES)
            except BlockingIOError:
                return messages, False
            if not piece:
                return messages, True
            messages += self._decoder.feed(piece)

    def kill(self) -> None:
        """End it and whatever it has started, at once."""
        if self._closed:  # and so may its pid
            return
        kill_process_tree(self._process.pid)

    def close(self) -> int:
        """Reap a worker whose pipe has ended; the exit status as `subprocess` tells it."""
        try:
            status = self._process.wait(REAPED_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            try:
                status = self._process.wait(KILLED_SECONDS)
            except subprocess.TimeoutExpired:
                # A driver holds it, as after a card has fallen off the bus. Nobody waits for that; it is reaped once
                # `subprocess` starts another process.
                status = -signal.SIGKILL
        self._closed = True
        for descriptor in (self._down, self.up):
            os.close(descriptor)
        return status


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts workers of one program: torch's, or the simulated one that tests and benchmarks use.

    `program`: the interpreter's arguments, without those that each worker needs.
    """

    log_folder: Path
    program: Sequence[str] = TRAINING

    def log_file(self, slot: int) -> Path:
        """Where a slot's workers write what belongs to no candidate."""
        return self.log_folder / f"worker-{slot}.log"

    def launch(self, slot: int, device: DeviceSnapshot = CPU_DEVICE) -> WorkerProcess:
        """Start a worker for a slot; it says `Hello` when it is ready. Raises `OSError` where that cannot be.

        Of all GPUs it sees its own alone.
        """
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        arguments = ["--in-fd", str(down_read), "--out-fd", str(up_write), "--device", torch_device_name(device)]
        try:
            with self._log(slot) as log:
                process = subprocess.Popen(
                    [sys.executable, *self.program, *arguments],
                    env={**os.environ, **worker_environment(device)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(down_read, up_write),
                    start_new_session=True,
                )
        except OSError:
            os.close(down_write)
            os.close(up_read)
            raise
        finally:
            os.close(down_read)
            os.close(up_write)
        return WorkerProcess(process, down_write, up_read)

    def _log(self, slot: int) -> BinaryIO:
        try:
            self.log_folder.mkdir(parents=True, exist_ok=True)
            return self.log_file(slot).open("ab")
        except OSError:  # a full disk of the logs costs the log, and no training
            return Path(os.devnull).open("ab")
