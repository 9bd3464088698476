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

Make = Callable[..., Assign]


class Worker:
    """A worker process, seen from the supervisor's end of its pipes."""

    def __init__(self, *options: str, program: Sequence[str] = SIMULATED_WORKER) -> None:
        down, self.down = os.pipe()
        self.up, up = os.pipe()
        self.process = subprocess.Popen(
            [
                *(sys.executable, *program),
                *("--in-fd", str(down), "--out-fd", str(up), *options),
            ],
            pass_fds=(down, up),
        )
        os.close(down)
        os.close(up)
        self.decoder = Decoder()
        self.heard: list[Message] = []

    def say(self, message: Command) -> None:
        os.write(self.down, encode(message))

    def hear(self, *kinds: type, seconds: float = 30) -> Message:
        """The next report of one of these kinds, or a failure."""
        until = time.monotonic() + seconds
        while True:
            for number, message in enumerate(self.heard):
                if isinstance(message, kinds):
                    del self.heard[: number + 1]
                    return message
            left = until - time.monotonic()
            assert left > 0, f"none of {kinds} among {self.heard[:5]}"
            if select.select([self.up], [], [], left)[0]:
                piece = os.read(self.up, 65536)
                assert piece, f"the worker left; {self.heard}"
                self.heard += self.decoder.feed(piece)

    def rest(self) -> list[Message]:
        """What it has said besides, once it has left."""
        while piece := os.read(self.up, 65536):
            self.heard += self.decoder.feed(piece)
        return self.heard

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for descriptor in {self.down, self.up} - {-1}:
            os.close(descriptor)


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(*options: str, program: Sequence[str] = SIMULATED_WORKER) -> Worker:
        workers.append(Worker(*options, program=program))
        return workers[-1]

    yield start
    for started in workers:
        started.close()


def test_a_worker_says_hello_and_calculates_one_candidate_after_another(
    assignment: Make, worker: Callable[..., Worker]
) -> None:
    one = worker()
    hello = one.hear(Ready)
    assert isinstance(hello, Ready)
    assert hello.pid == one.process.pid
    for candidate in (1, 2):
        one.say(assignment(candidate))
        finished = one.hear(Finished)
        assert isinstance(finished, Finished)
        assert finished.candidate == candidate
        assert finished.data_digest == "arithmetic"
    one.say(Exit())
    assert one.process.wait(10) == 0


def test_arithmetic_goes_on_from_a_checkpoint_with_the_same_figures(
    assignment: Make, worker: Callable[..., Worker]
) -> None:
    one = worker("--seconds-per-epoch", "0.3")
    one.say(assignment(epochs=3))
    whole = [one.hear(EpochDone) for _ in range(3)]
    one.hear(Finished)
    stopped = assignment(attempt=2, epochs=3)
    one.say(stopped)
    one.hear(EpochDone)
    one.say(Release(1, 2))
    one.hear(Checkpointed)
    one.hear(Released)
    one.say(replace(stopped, attempt=3))
    resumed = [one.hear(EpochDone) for _ in range(3)]

    def figures(rows: list[Message]) -> list[EpochDone]:
        done = [row for row in rows if isinstance(row, EpochDone)]
        return [replace(row, attempt=0, ended_at=0) for row in done]

    assert figures(whole) == figures(resumed)


def test_a_candidate_can_be_made_to_kill_its_worker_once(assignment: Make, worker: Callable[..., Worker]) -> None:
    one = worker("--crash-on", "1")
    first = assignment()
    one.say(first)
    one.hear(Checkpointed)
    assert one.process.wait(10) == -signal.SIGKILL
    another = worker("--crash-on", "1")
    another.say(replace(first, attempt=2))
    another.hear(Finished)


@pytest.mark.parametrize("ending", ["exit", "term", "end of pipe", "silence"])
def test_a_worker_that_is_let_go_or_left_alone_leaves(
    assignment: Make, worker: Callable[..., Worker], ending: str
) -> None:
    one = worker("--seconds-per-epoch", "5")
    one.hear(Ready)
    one.say(assignment(epochs=5))
    time.sleep(0.1)
    if ending == "exit":
        one.say(Exit())
    elif ending == "term":
        one.process.send_signal(signal.SIGTERM)
    elif ending == "silence":
        one.say(Heartbeat(0.3))
    else:
        os.close(one.down)
        one.down = -1
    one.hear(Released, seconds=3)
    assert one.process.wait(3) == 0


def test_an_idle_worker_ignores_ctrl_c_and_obeys_sigterm(worker: Callable[..., Worker]) -> None:
    one = worker()
    one.hear(Ready)
    one.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert one.process.poll() is None
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(3) == 0


def test_requests_to_an_older_attempt_are_not_obeyed(assignment: Make, worker: Callable[..., Worker]) -> None:
    one = worker("--seconds-per-epoch", "0.1")
    one.say(assignment(attempt=2))
    one.say(Cancel(1, 1))
    one.hear(Finished)


def test_cancel_stops_at_once(assignment: Make, worker: Callable[..., Worker]) -> None:
    one = worker("--seconds-per-epoch", "60")
    assign = assignment()
    one.say(assign)
    one.say(Cancel(1, 1))
    one.hear(Released, seconds=5)
    assert not list(Path(assign.checkpoint_folder).glob("*"))


def test_a_supervisor_that_is_gone_costs_no_checkpoint(assignment: Make, worker: Callable[..., Worker]) -> None:
    one = worker("--seconds-per-epoch", "0.4")
    one.hear(Ready)
    assign = assignment(epochs=50)
    one.say(assign)
    one.hear(EpochDone)
    os.close(one.up)
    os.close(one.down)
    one.up = one.down = -1
    assert one.process.wait(5) == 0
    assert list(Path(assign.checkpoint_folder).glob("c1-a1-e*-b0.ckpt"))


def test_simulated_worker_imports_neither_torch_nor_pydantic() -> None:
    code = (
        "import runpy, sys; runpy.run_path(*sys.argv[1:]);"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'sqlalchemy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code, *SIMULATED_WORKER], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_what_a_training_prints_goes_to_its_log_and_a_broken_trainer_is_a_failure(
    assignment: Make, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    one = worker()
    one.say(assignment(code=[[9, 9]]))
    failed = one.hear(Failed)
    assert isinstance(failed, Failed)
    assert failed.kind == "exception"
    one.say(assignment(2))
    one.hear(Finished)
    assert "epoch 1: train loss" in (tmp_path / "logs" / "2.log").read_text()


def test_release_is_requested_until_obeyed(assignment: Make) -> None:
    down, supervisor = os.pipe()
    heard, up = os.pipe()
    seen: list[StopRequest] = []

    def trainer(assign: Assign, wanted: Callable[[], StopRequest]) -> Iterator[Report]:
        seen.append(wanted())
        os.write(supervisor, encode(Release(1, 1)))
        seen.extend([wanted(), wanted()])
        os.write(supervisor, encode(Exit()))
        yield Released(1, 1, 0.0)

    os.write(supervisor, encode(assignment()))
    WorkerProtocol(down, up).run(Ready(1, {}, "cpu", ""), trainer)
    for descriptor in (down, supervisor, heard, up):
        os.close(descriptor)
    assert seen == [StopRequest.NONE, StopRequest.RELEASE, StopRequest.RELEASE]


def test_after_its_last_word_a_training_that_fails_while_it_tidies_up_says_no_more_and_its_worker_leaves(
    assignment: Make, worker: Callable[..., Worker]
) -> None:
    one = worker("--fatal-on", "1")
    one.say(assignment())
    one.say(assignment(2))
    failed = one.hear(Failed)
    assert isinstance(failed, Failed)
    assert (failed.candidate, failed.fatal) == (1, True)
    assert one.process.wait(10) == 0
    assert not [report for report in one.rest() if isinstance(report, Finished | Failed)]


@pytest.mark.slow
def test_the_real_worker_trains_checkpoints_and_leaves(assignment: Make, worker: Callable[..., Worker]) -> None:
    one = worker("--device", "cpu", program=("-m", "eatnas_training.worker"))
    hello = one.hear(Ready, seconds=60)
    assert isinstance(hello, Ready)
    assert {"python", "torch", "numpy", "eatnas-db"} <= set(hello.versions)
    one.say(Heartbeat(30))
    one.say(assignment())
    one.hear(Finished)
    one.say(assignment(2, epochs=1000))
    one.say(Release(2, 1))
    one.hear(Checkpointed)
    one.hear(Released)
    one.say(Exit())
    assert one.process.wait(10) == 0
