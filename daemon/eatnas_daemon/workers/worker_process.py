"""Send commands to a running worker process, read its reports, kill it, and reap it."""

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
"""The time within which a worker must exit after it has closed its pipe."""
REAP_SECONDS: Final = 0.2
"""The supervisor waits at most this long for an exit. Most workers exit within this time; `reap` polls for the others.
"""
KILL_SECONDS: Final = 1.0
"""The time within which a killed worker must exit."""


class ChildProcess(Protocol):
    """The process of a worker: a `subprocess.Popen`, or a process on another machine."""

    @property
    def pid(self) -> int:
        """Return the id of the process."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative for a signal. Raises `subprocess.TimeoutExpired`."""


class WorkerProcess:
    """A worker process in its own session, and the two pipes to it.

    `command_fd` and `report_fd` are the supervisor's ends of the pipes for commands and for reports.
    """

    def __init__(self, process: ChildProcess, command_fd: int, report_fd: int) -> None:
        self._process, self.command_fd, self.report_fd = process, command_fd, report_fd
        self._unsent = bytearray()
        self._decoder = Decoder()
        self._closed = False
        self._pipe_closed_at: float | None = None
        # Make both descriptors non-blocking, because a frozen or damaged worker must never block the supervisor.
        for descriptor in (command_fd, report_fd):
            os.set_blocking(descriptor, False)

    @property
    def pid(self) -> int:
        """Return the id of the process."""
        return self._process.pid

    @property
    def pending(self) -> bool:
        """Return whether the process is waiting for resources and has not started yet."""
        return False

    @property
    def unreachable_seconds(self) -> float:
        """Return the seconds for which the machine of the process has not answered; 0 for a process on this machine."""
        return 0.0

    @property
    def takes_turns(self) -> bool:
        """Return whether the process trains several candidates in turn."""
        return False

    @property
    def waits_for_turn(self) -> bool:
        """Return whether this worker cannot report because its process is busy with another training."""
        return False

    @property
    def holds_turn(self) -> bool:
        """Return whether the other trainings of the process are waiting for this worker's turn to end."""
        return False

    @property
    def loss_reason(self) -> str | None:
        """Return the reason why another machine or another lane has ended the process; None without such a reason."""
        return None

    def find_device(self, ready: Ready) -> DeviceSnapshot | None:
        """Return the device on which a cluster has placed the worker; None if the device was known before the start."""
        return None

    def read_device(self, device: DeviceSnapshot) -> DeviceSnapshot:
        """Return the last snapshot of the worker's device, or `device` if there is no newer one."""
        return device

    @property
    def suspended(self) -> bool:
        """Return whether SIGSTOP or Ctrl-Z has stopped the process, so that it cannot report."""
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        return False

    @property
    def memory_bytes(self) -> int:
        """Return the resident memory of the process in bytes; 0 if the process has ended."""
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the process has used since its start; 0 if the process has ended."""
        with contextlib.suppress(psutil.Error):
            return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))
        return 0.0

    @property
    def blocked_fd(self) -> int | None:
        """Return the descriptor of the command pipe if unsent commands are waiting for room in the pipe, otherwise
        None.
        """
        return self.command_fd if self._unsent and not self._closed else None

    def send(self, command: Command) -> None:
        """Send a command without waiting. If the pipe is full, `flush` sends the rest later.

        Commands to a dead worker are dropped; `receive` reports the end of the worker. A worker that reads nothing gets
        no more heartbeats.
        """
        if self._closed:  # Another file may have the number of the closed descriptor.
            return
        if isinstance(command, Heartbeat) and self._unsent:
            return
        self._unsent += encode(command)
        self.flush()

    def flush(self) -> None:
        """Send as many waiting bytes as the pipe accepts now."""
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
        """Return the messages that have arrived, and whether the worker has closed its pipe. Never waits.

        Raises `ValueError` for bytes that are not a message. Call `discard` after this error.
        """
        messages: list[Message] = []
        for chunk in self._read_chunks():
            if not chunk:
                return messages, True
            messages += self._decoder.feed(chunk)
        return messages, False

    def discard(self) -> bool:
        """Discard the bytes that have arrived. Return whether the worker has closed its pipe. Never waits."""
        return any(not chunk for chunk in self._read_chunks())

    def _read_chunks(self) -> Iterator[bytes]:
        """Yield at most `MAX_CHUNKS` chunks, so that a worker that floods its pipe does not delay the other workers."""
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
        if not self._closed:  # After the process is reaped, another process may have its pid.
            kill_process_tree(self._process.pid)

    def reap(self, now: float) -> int | None:
        """Return the exit status of a worker that has closed its pipe, or None while the worker is still exiting.

        The status is negative for a signal. A worker that does not exit in time is killed. Such a worker is reported as
        killed even if it does not end soon, because a driver may block a killed process, for example after the loss of
        a GPU. `subprocess` reaps a process that ends later, when it starts another process.
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
        """Reap a worker that was killed or has closed its pipe. Return its exit status, negative for a signal."""
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
