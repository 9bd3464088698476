"""Worker processes, seen from the supervisor's end."""

import os
import signal
import subprocess

from eatnas_daemon.workers.worker_process import WorkerProcess


class Held:
    """Stands in for a process that a driver holds, so that not even SIGKILL ends it; there is no other way to one."""

    pid = 2**22 + 1

    def wait(self, seconds):
        raise subprocess.TimeoutExpired("worker", seconds)


def test_a_worker_that_cannot_be_ended_holds_up_nobody():
    (far, down), (up, other) = os.pipe(), os.pipe()
    assert WorkerProcess(Held(), down, up).close() == -signal.SIGKILL
    os.close(far)
    os.close(other)
