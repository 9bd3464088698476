"""The supervisor's side of a worker process."""

import os
import signal
import subprocess

from eatnas_daemon.workers.worker_process import EXIT_SECONDS, WorkerProcess
from eatnas_protocol.framing import Decoder
from eatnas_protocol.messages import Exit, Heartbeat


class UnkillableProcess:
    """A fake process that SIGKILL does not end, as if a driver blocked it. A test cannot create a real process of this
    kind.
    """

    pid = 2**22 + 1

    def wait(self, seconds):
        raise subprocess.TimeoutExpired("worker", seconds)


def start_sleeper():
    (worker_in, command_fd), (report_fd, worker_out) = os.pipe(), os.pipe()
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    return WorkerProcess(process, command_fd, report_fd), worker_in, worker_out


def test_commands_to_a_frozen_worker_never_block():
    worker, worker_in, worker_out = start_sleeper()
    for _ in range(100_000):
        worker.send(Heartbeat(1.0))
    blocked = worker.blocked_fd
    assert blocked is not None
    worker.send(Exit())
    content = b""
    while worker.blocked_fd is not None:
        content += os.read(worker_in, 1 << 16)
        worker.flush()
    content += os.read(worker_in, 1 << 16)
    messages = Decoder().feed(content)
    assert messages[:-1] == [Heartbeat(1.0)] * (len(messages) - 1)
    assert messages[-1] == Exit()
    worker.kill()
    worker.close()
    os.close(worker_in)
    os.close(worker_out)


def test_worker_with_a_closed_pipe_is_killed_after_a_wait():
    worker, worker_in, worker_out = start_sleeper()
    os.close(worker_out)
    assert worker.receive() == ([], True)
    assert worker.reap(0.0) is None
    assert worker.reap(EXIT_SECONDS - 1) is None
    assert worker.reap(EXIT_SECONDS) is None
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert worker.reap(EXIT_SECONDS) == -signal.SIGKILL
    os.close(worker_in)


def test_close_does_not_wait_for_an_unkillable_worker():
    (far, down), (up, other) = os.pipe(), os.pipe()
    assert WorkerProcess(UnkillableProcess(), down, up).close() == -signal.SIGKILL
    os.close(far)
    os.close(other)
