"""A running worker process: send it commands, read its reports, kill it, reap it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Final, Protocol

import psutil

from eatnas_daemon.devices.model import DeviceSnapshot
from eatnas_daemon.workers.process_tree import kill_process_tree
from eatnas_protocol.framing import Decoder, encode
from eatnas_protocol.messages import Command, Heartbeat, Message, Ready

READ_BYTES: Final = 1 << 16
MAX_CHUNKS: Final = 64
EXIT_SECONDS: Final = 5.0
"""Time for a worker to exit after it has closed its pipe."""
REAP_SECONDS: Final = 0.2
"""Time in which most workers exit; the supervisor waits for it once."""
KILL_SECONDS: Final = 1.0
"""Time for a worker to exit after it was killed."""


class ChildProcess(Protocol):
    """What a worker needs of a process: a `subprocess.Popen`, or one that others control."""

    @property
    def pid(self) -> int:
        """Return the id of the process."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative for a signal. Raises `subprocess.TimeoutExpired`."""


class WorkerProcess:
    """A worker process in a session of its own, and the two pipes to it.

    `command_fd` is the end for commands to the worker, `report_fd` the end for its reports.
    """

    def __init__(self, process: ChildProcess, command_fd: int, report_fd: int) -> None:
        self._process, self.command_fd, self.report_fd = process, command_fd, report_fd
        self._unsent = bytearray()
        self._decoder = Decoder()
        self._closed = False
        self._pipe_closed_at: float | None = None
        # A worker that is frozen or damaged must never keep the supervisor waiting.
        for descriptor in (command_fd, report_fd):
            os.set_blocking(descriptor, False)

    @property
    def pid(self) -> int:
        """Return the id of the process."""
        return self._process.pid

    @property
    def pending(self) -> bool:
        """Return whether the process waits for resources and is not started yet."""
        return False

    @property
    def unreachable_seconds(self) -> float:
        """Return how long the machine of the process has not answered; 0 for a process of this machine."""
        return 0.0

    @property
    def loss_reason(self) -> str | None:
        """Return why a process ended that others control, if that is known."""
        return None

    def find_device(self, ready: Ready) -> DeviceSnapshot | None:
        """Return the device that a worker has been placed on; None if it was known before the start."""
        return None

    def read_device(self, device: DeviceSnapshot) -> DeviceSnapshot:
        """Return the last snapshot of the worker's device; `device` if there is none."""
        return device

    @property
    def suspended(self) -> bool:
        """Return whether the process was stopped by SIGSTOP or Ctrl-Z and therefore cannot report."""
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        return False

    @property
    def memory_bytes(self) -> int:
        """Return the resident memory of the process; 0 if it is gone."""
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used since its start; 0 if it is gone."""
        with contextlib.suppress(psutil.Error):
            return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))
        return 0.0

    @property
    def blocked_fd(self) -> int | None:
        """Return the descriptor that takes the rest of the commands when it is writable; None if all are sent."""
        return self.command_fd if self._unsent and not self._closed else None

    def send(self, command: Command) -> None:
        """Send a command, without waiting; `flush` sends what the pipe does not take now.

        A dead worker does not get it; `receive` reports its end. A worker that reads nothing gets no more heartbeats.
        """
        if self._closed:  # Another file may have the descriptor's number by now.
            return
        if isinstance(command, Heartbeat) and self._unsent:
            return
        self._unsent += encode(command)
        self.flush()

    def flush(self) -> None:
        """Send the bytes that the pipe takes now."""
        if self._closed:
            return
        try:
            while self._unsent:
                del self._unsent[: os.write(self.command_fd, self._unsent)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent.clear()

    def receive(self) -> tuple[list[Message], bool]:
        """Return the messages that arrived, without waiting, and whether the worker has closed its pipe.

        Raises `ValueError` for bytes that are no message; call `discard` afterwards.
        """
        messages: list[Message] = []
        for chunk in self._read_chunks():
            if not chunk:
                return messages, True
            messages += self._decoder.feed(chunk)
        return messages, False

    def discard(self) -> bool:
        """Discard the bytes that arrived, without waiting; return whether the worker has closed its pipe."""
        return any(not chunk for chunk in self._read_chunks())

    def _read_chunks(self) -> Iterator[bytes]:
        """Yield at most `MAX_CHUNKS` chunks that arrived: a worker that floods its pipe must not delay the others."""
        for _ in range(MAX_CHUNKS):
            try:
                chunk = os.read(self.report_fd, READ_BYTES)
            except BlockingIOError:
                return
            yield chunk
            if not chunk:
                return

    def kill(self) -> None:
        """Kill the process and its descendants."""
        if not self._closed:  # Another process may have the pid by now.
            kill_process_tree(self._process.pid)

    def reap(self, now: float) -> int | None:
        """Return the exit status of a worker that has closed its pipe, negative for a signal; None if it still exits.

        A worker that does not exit is killed, and reported as killed even if that takes long: a driver may block a
        killed process, for example after a GPU was lost. `subprocess` reaps it when it starts another process.
        """
        first = self._pipe_closed_at is None
        self._pipe_closed_at = now if self._pipe_closed_at is None else self._pipe_closed_at
        try:
            status = self._process.wait(REAP_SECONDS if first else 0)
        except subprocess.TimeoutExpired:
            seconds = now - self._pipe_closed_at
            if seconds >= EXIT_SECONDS:
                self.kill()
            if seconds < EXIT_SECONDS + KILL_SECONDS:
                return None
            status = -signal.SIGKILL
        self._close_pipes()
        return status

    @property
    def has_closed_pipe(self) -> bool:
        """Return whether the worker has closed its pipe and only has to be reaped."""
        return self._pipe_closed_at is not None

    def close(self) -> int:
        """Reap a worker that was killed or has closed its pipe; return its exit status, negative for a signal."""
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            try:
                status = self._process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                status = -signal.SIGKILL
        self._close_pipes()
        return status

    def _close_pipes(self) -> None:
        self._closed = True
        for descriptor in (self.command_fd, self.report_fd):
            os.close(descriptor)
