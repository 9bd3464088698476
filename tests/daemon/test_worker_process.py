"""The supervisor's side of a worker process."""

import os
import signal
import subprocess

from eatnas_daemon.workers.worker_process import WorkerProcess


class UnkillableProcess:
    """Replaces a process that a driver blocks, so that SIGKILL does not end it; a test cannot create a real one."""

    pid = 2**22 + 1

    def wait(self, seconds):
        raise subprocess.TimeoutExpired("worker", seconds)


def test_close_does_not_wait_for_an_unkillable_worker():
    (far, down), (up, other) = os.pipe(), os.pipe()
    assert WorkerProcess(UnkillableProcess(), down, up).close() == -signal.SIGKILL
    os.close(far)
    os.close(other)
