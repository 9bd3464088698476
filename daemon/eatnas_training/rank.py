"""`python -m eatnas_training.rank`: compute one part of each batch of a training on several devices."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from torch import Tensor

from eatnas_db.text_encoding import let_output_escape
from eatnas_protocol.messages import Assign
from eatnas_training import checkpoint, collective
from eatnas_training.failures import failure_kind
from eatnas_training.state import identity_of
from eatnas_training.steps import StepRunner


class RankMember:
    """The exchange, in each step, between this rank and the other ranks."""

    def begin_step(self) -> None:
        """Do nothing: rank 0 begins each step."""

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks."""
        collective.add_up(tensors)


def train(request: dict[str, Any], steps: SimpleQueue[str], report_fd: int) -> None:
    """Compute a step for each item of `steps`."""
    assign = Assign(**request["assign"])
    rank, count, seconds = request["rank"], request["count"], request["seconds"]
    runner = StepRunner(assign, rank=rank)
    runner.load()
    runner.build()
    _report(report_fd, digest=runner.data.digest)
    store = collective.open_tcp_store(rank, count, request["port"], seconds)
    collective.join(store, rank, count, seconds)
    state = runner.state
    identity = identity_of(assign, runner.recipe, runner.data.digest)
    state.restore(checkpoint.unpack(collective.broadcast(None)), identity=identity, attempt=assign.attempt)
    runner.exchange = RankMember()
    while steps.get():
        if state.batch == runner.batches:
            state.begin_epoch()
        runner.train_step()


def main() -> None:
    """Read the request from stdin, and then one line for each step until stdin is closed."""
    parser = argparse.ArgumentParser(prog="eatnas_training.rank", description=__doc__)
    parser.add_argument("--report-fd", type=int, required=True)
    let_output_escape()
    report_fd: int = parser.parse_args().report_fd
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the supervisor, which ends this process
    request = json.loads(sys.stdin.readline())
    steps: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read_steps, args=(steps,), daemon=True).start()
    try:
        train(request, steps, report_fd)
    except collective.CollectiveError as error:
        print(error, file=sys.stderr, flush=True)  # another rank is the cause, and rank 0 reports it
    except Exception as error:
        traceback.print_exc()
        _report(report_fd, kind=str(failure_kind(error)), message=str(error) or type(error).__name__)
    sys.stdout.flush()
    os._exit(1)


def _read_steps(steps: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        steps.put(line)
    os._exit(0)  # the worker has ended, so exit even if the main thread is waiting for another rank


def _report(fd: int, **fields: str) -> None:
    os.write(fd, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    main()
