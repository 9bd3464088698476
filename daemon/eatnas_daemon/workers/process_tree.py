"""Kill a child process together with the processes that it started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import psutil


def kill_process_tree(leader: int) -> None:
    """Send SIGKILL to a session leader, to its process group and to its descendants in other groups.

    `leader` must be the pid of a child that has not been reaped yet, so that no other process can have this pid.
    """
    descendants: list[psutil.Process] = []
    with suppress(psutil.Error):
        descendants = psutil.Process(leader).children(recursive=True)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for process in descendants:
        with suppress(psutil.Error):
            process.kill()
