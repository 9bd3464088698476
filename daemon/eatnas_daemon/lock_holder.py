"""Identify the process that holds a lock, so that no other process with the same pid is mistaken for it."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

PROC: Final = Path("/proc")
STATE_FIELD: Final = 0
START_FIELD: Final = 19
"""Positions in /proc/PID/stat, counted from the field after the process's name."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A process, identified by its pid. The pid is valid only in its pid namespace, and until the machine boots again.

    `started` is the start time of the process on the kernel's clock, which distinguishes it from a later
    process with the same pid.
    """

    pid: int
    started: str
    boot: str
    namespace: str
    host: str

    @property
    def is_visible(self) -> bool:
        """Return whether the pid is valid here: in this pid namespace, and since the last boot of this machine."""
        return (self.boot, self.namespace) == (_boot(), _namespace())

    @property
    def is_identified(self) -> bool:
        """Return whether the lock file contains more than a pid."""
        return self.boot != ""

    @property
    def is_running(self) -> bool:
        """Return whether the process is proven to run here."""
        return self.is_visible and self.started != "" and _start_time(self.pid) == self.started

    @property
    def is_suspended(self) -> bool:
        """Return whether the process runs here and was stopped by SIGSTOP or Ctrl-Z."""
        return self.is_running and _read_stat(self.pid, STATE_FIELD) in ("T", "t")

    def send_signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process. Return False if the process is not proven to run here. Raises
        `PermissionError`.
        """
        if not self.is_running:
            return False
        try:
            if not hasattr(os, "pidfd_open"):
                os.kill(self.pid, number)
                return True
            descriptor = os.pidfd_open(self.pid)
            try:
                # Check again. From now on, the descriptor refers to the same process, even if another process gets the
                # pid.
                if not self.is_running:
                    return False
                signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)
        except ProcessLookupError:
            return False
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        if self.is_visible:
            return f"pid {self.pid}"
        if self.is_identified:
            return f"pid {self.pid} on {self.host}, another machine or container"
        return f"pid {self.pid or 'unknown'}"


def current_process() -> LockHolder:
    """Return this process."""
    pid = os.getpid()
    return LockHolder(pid, _start_time(pid) or "", _boot(), _namespace(), socket.gethostname())


def parse_holder(content: Any) -> LockHolder | None:
    """Return the process that plain data describes, or None if the data describe no process. A missing field becomes an
    empty string.
    """
    if not isinstance(content, Mapping) or type(content.get("pid")) is not int:
        return None
    texts = {name: str(content.get(name, ""))[:255] for name in ("started", "boot", "namespace", "host")}
    return LockHolder(content["pid"], **texts)


UNKNOWN_PROCESS: Final = LockHolder(0, "", "", "", "")
"""The holder of a lock whose file names no process."""


def _start_time(pid: int) -> str | None:
    """Return the start time of a process of this namespace, or None if there is no such process."""
    return _read_stat(pid, START_FIELD)


def _read_stat(pid: int, field: int) -> str | None:
    if not (PROC / "self" / "stat").exists():
        return _ask_psutil(pid, field)
    try:
        # The process name, in parentheses, may itself contain spaces and parentheses.
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return fields[field].decode()
    except (OSError, IndexError):
        return None


def _ask_psutil(pid: int, field: int) -> str | None:
    """Return the field that `_read_stat` would return, on systems without /proc."""
    # Import only here, because psutil is slow to load and few commands need it.
    import psutil

    with suppress(psutil.Error, ValueError, OverflowError):
        process = psutil.Process(pid)
        if field == START_FIELD:
            return repr(process.create_time())
        return "T" if process.status() == psutil.STATUS_STOPPED else ""
    return None


@cache
def _boot() -> str:
    with suppress(OSError):
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{uuid.getnode():x}"


@cache
def _namespace() -> str:
    with suppress(OSError):
        return str((PROC / "self/ns/pid").readlink())
    return ""
