from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from eatnas_protocol.framing import Decoder, encode
from eatnas_protocol.messages import (
    Assign,
    Cancel,
    Checkpointed,
    Command,
    EpochDone,
    Exit,
    Failed,
    Finished,
    Heartbeat,
    Message,
    Ready,
    Release,
    Released,
    Report,
)
from eatnas_training.worker_protocol import StopRequest, WorkerProtocol
from support.simulated_worker import SIMULATED_WORKER
from support.trainings import MakeAssignment

R = TypeVar("R", bound=Report)
REAL_WORKER = ("-m", "eatnas_training.worker")


class Worker:
    """A worker process and the supervisor's ends of its pipes."""

    def __init__(self, *options: str, program: Sequence[str] = SIMULATED_WORKER) -> None:
        command_read, self.commands = os.pipe()
        self.reports, report_write = os.pipe()
        descriptors = ("--in-fd", str(command_read), "--out-fd", str(report_write))
        self.process = subprocess.Popen(
            [sys.executable, *program, *descriptors, *options], pass_fds=(command_read, report_write)
        )
        os.close(command_read)
        os.close(report_write)
        self.decoder = Decoder()
        self.received: list[Message] = []

    def send(self, command: Command) -> None:
        os.write(self.commands, encode(command))

    def wait_for(self, kind: type[R], seconds: float = 200) -> R:
        """Return the next report of a kind. Fail after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            for number, message in enumerate(self.received):
                if isinstance(message, kind):
                    del self.received[: number + 1]
                    return message
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"no {kind.__name__} in {seconds:g} s; {self.received_kinds()}"
            if select.select([self.reports], [], [], remaining)[0]:
                chunk = os.read(self.reports, 65536)
                assert chunk, f"the worker exited; {self.received_kinds()}"
                self.received += self.decoder.feed(chunk)

    def received_kinds(self) -> str:
        return f"received: {', '.join(type(message).__name__ for message in self.received) or 'nothing'}"

    def remaining_reports(self) -> list[Message]:
        """Return all remaining reports of a worker that exits."""
        while chunk := os.read(self.reports, 65536):
            self.received += self.decoder.feed(chunk)
        return self.received

    def close_pipes(self) -> None:
        for descriptor in {self.commands, self.reports} - {-1}:
            os.close(descriptor)
        self.commands = self.reports = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.close_pipes()


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    workers: list[Worker] = []

    def start(*options: str, program: Sequence[str] = SIMULATED_WORKER) -> Worker:
        workers.append(Worker(*options, program=program))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def test_worker_trains_one_candidate_after_another(assignment: MakeAssignment, start_worker: StartWorker) -> None:
    worker = start_worker()
    assert worker.wait_for(Ready).pid == worker.process.pid
    for candidate in (1, 2):
        worker.send(assignment(candidate))
        finished = worker.wait_for(Finished)
        assert (finished.candidate, finished.data_digest) == (candidate, "arithmetic")
    worker.send(Exit())
    assert worker.process.wait(200) == 0


def test_assignment_that_arrives_with_exit_is_released(assignment: MakeAssignment, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.wait_for(Ready)
    os.write(worker.commands, encode(assignment(5)) + encode(Exit()))
    assert worker.remaining_reports() == [Released(5, 1, 0.0)]
    assert worker.process.wait(200) == 0


def test_simulated_training_resumes_with_the_same_metrics(
    assignment: MakeAssignment, start_worker: StartWorker
) -> None:
    worker = start_worker("--seconds-per-epoch", "0.3")
    worker.send(assignment(epochs=3))
    uninterrupted = [worker.wait_for(EpochDone) for _ in range(3)]
    worker.wait_for(Finished)
    interrupted = assignment(attempt=2, epochs=3)
    worker.send(interrupted)
    worker.wait_for(EpochDone)
    worker.send(Release(1, 2))
    worker.wait_for(Checkpointed)
    worker.wait_for(Released)
    worker.send(replace(interrupted, attempt=3))
    resumed = [worker.wait_for(EpochDone) for _ in range(3)]

    def metrics(reports: list[EpochDone]) -> list[EpochDone]:
        return [replace(report, attempt=0, ended_at=0) for report in reports]

    assert metrics(uninterrupted) == metrics(resumed)


def test_candidate_kills_its_simulated_worker_only_once(assignment: MakeAssignment, start_worker: StartWorker) -> None:
    worker = start_worker("--crash-on", "1")
    first = assignment()
    worker.send(first)
    worker.wait_for(Checkpointed)
    assert worker.process.wait(200) == -signal.SIGKILL
    other = start_worker("--crash-on", "1")
    other.send(replace(first, attempt=2))
    other.wait_for(Finished)


@pytest.mark.parametrize("cause", ["exit", "SIGTERM", "closed pipe", "no heartbeat"])
def test_worker_releases_its_candidate_and_exits(
    assignment: MakeAssignment, start_worker: StartWorker, cause: str
) -> None:
    worker = start_worker("--seconds-per-epoch", "600")
    worker.wait_for(Ready)
    worker.send(assignment(epochs=5))
    time.sleep(0.1)
    if cause == "exit":
        worker.send(Exit())
    elif cause == "SIGTERM":
        worker.process.send_signal(signal.SIGTERM)
    elif cause == "no heartbeat":
        worker.send(Heartbeat(0.3))
    else:
        os.close(worker.commands)
        worker.commands = -1
    worker.wait_for(Released)
    assert worker.process.wait(200) == 0


def test_idle_worker_ignores_sigint_and_obeys_sigterm(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.wait_for(Ready)
    worker.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert worker.process.poll() is None
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(200) == 0


def test_command_for_an_older_attempt_is_ignored(assignment: MakeAssignment, start_worker: StartWorker) -> None:
    worker = start_worker("--seconds-per-epoch", "0.1")
    worker.send(assignment(attempt=2))
    worker.send(Cancel(1, 1))
    worker.wait_for(Finished)


def test_cancel_stops_at_once_without_a_checkpoint(assignment: MakeAssignment, start_worker: StartWorker) -> None:
    worker = start_worker("--seconds-per-epoch", "600")
    assign = assignment()
    worker.send(assign)
    worker.send(Cancel(1, 1))
    worker.wait_for(Released)
    assert not list(Path(assign.checkpoint_folder).glob("*"))


def test_worker_saves_a_checkpoint_when_the_supervisor_is_gone(
    assignment: MakeAssignment, start_worker: StartWorker
) -> None:
    worker = start_worker("--seconds-per-epoch", "0.4")
    worker.wait_for(Ready)
    assign = assignment(epochs=50)
    worker.send(assign)
    worker.wait_for(EpochDone)
    worker.close_pipes()
    assert worker.process.wait(200) == 0
    assert list(Path(assign.checkpoint_folder).glob("c1-a1-e*-b0.ckpt"))


def test_simulated_worker_imports_neither_torch_nor_pydantic() -> None:
    code = (
        "import runpy, sys; runpy.run_path(*sys.argv[1:]);"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'sqlalchemy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code, *SIMULATED_WORKER], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_worker_continues_after_a_failure_and_logs_each_training(
    assignment: MakeAssignment, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    worker.send(assignment(code=[[9, 9]]))
    assert worker.wait_for(Failed).kind == "exception"
    worker.send(assignment(2))
    worker.wait_for(Finished)
    assert "epoch 1: train loss" in (tmp_path / "logs" / "2.log").read_text()


def test_stop_request_holds_until_obeyed(assignment: MakeAssignment) -> None:
    command_read, commands = os.pipe()
    reports, report_write = os.pipe()
    requests: list[StopRequest] = []

    def trainer(assign: Assign, stop_request: Callable[[], StopRequest]) -> Iterator[Report]:
        requests.append(stop_request())
        os.write(commands, encode(Release(1, 1)))
        requests.extend([stop_request(), stop_request()])
        os.write(commands, encode(Exit()))
        yield Released(1, 1, 0.0)

    os.write(commands, encode(assignment()))
    WorkerProtocol(command_read, report_write).run(Ready(1, {}, "cpu", ""), trainer)
    for descriptor in (command_read, commands, reports, report_write):
        os.close(descriptor)
    assert requests == [StopRequest.NONE, StopRequest.RELEASE, StopRequest.RELEASE]


@pytest.mark.slow
def test_worker_exits_after_a_fatal_failure_without_further_reports(
    assignment: MakeAssignment, start_worker: StartWorker
) -> None:
    worker = start_worker("--fatal-on", "1")
    worker.send(assignment())
    worker.send(assignment(2))
    failed = worker.wait_for(Failed)
    assert (failed.candidate, failed.fatal) == (1, True)
    assert worker.process.wait(200) == 0
    assert not [report for report in worker.remaining_reports() if isinstance(report, Finished | Failed)]


@pytest.mark.slow
def test_real_worker_trains_checkpoints_and_exits(assignment: MakeAssignment, start_worker: StartWorker) -> None:
    worker = start_worker("--device", "cpu", program=REAL_WORKER)
    ready = worker.wait_for(Ready)
    assert {"python", "torch", "numpy", "eatnas-db"} <= set(ready.versions)
    worker.send(Heartbeat(30))
    worker.send(assignment())
    worker.wait_for(Finished)
    worker.send(assignment(2, epochs=1000))
    worker.send(Release(2, 1))
    worker.wait_for(Checkpointed)
    worker.wait_for(Released)
    worker.send(Exit())
    assert worker.process.wait(200) == 0
