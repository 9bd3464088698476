"""Inspect, signal and limit processes, and wait for conditions."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

T = TypeVar("T")
TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 0.02


def eventually(find: Callable[[], T], seconds: float = TIMEOUT_SECONDS) -> T:
    """Call `find` until its result is true or `seconds` have passed. Return the last result."""
    deadline = time.monotonic() + seconds
    while not (result := find()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return result


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that have not ended."""
    found = []
    for process in list(processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_stopped(pid: int) -> bool:
    """Wait up to two seconds until a process is stopped, and return whether it is."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return eventually(lambda: bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED), 2.0)
    return False


def limit_file_size(pid: int, size: int | None) -> None:
    """Let every write of a process beyond the first `size` bytes of a file fail. None removes the limit."""
    soft = resource.RLIM_INFINITY if size is None else size
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
