"""`python -m eatnas_training.calibrate`: how long an epoch of each network would take here.

Reads `{"codes": […], "macro": …, "task": …, "data": …, "training": …, "device": "cpu"}` on stdin and prints
`[{"seconds_per_epoch": …, "first_seconds": …}, …]`: `first_seconds` is building and the first step.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import torch

from eatnas_db.errors import EatnasError
from eatnas_protocol.messages import Assign
from eatnas_training.dataset_files import first_line
from eatnas_training.failures import DivergedError
from eatnas_training.steps import Clock, StepRunner
from eatnas_training.streaming import AHEAD, Streamed

TIMED_STEPS: Final = 3


def calibrate(asked: Mapping[str, Any], clock: Clock = time.perf_counter) -> list[dict[str, float]]:
    """Seconds for one epoch, validation included, of each code. Raises `EatnasError`."""
    return [_timed(asked, code, clock) for code in asked["codes"]]


def _timed(asked: Mapping[str, Any], code: list[list[int | float]], clock: Clock) -> dict[str, float]:
    settings = {key: asked[key] for key in ("macro", "task", "data", "training")}
    device = str(asked.get("device", "cpu"))
    assign = Assign(0, 0, code, **settings, seed=0, checkpoint_folder="", log_file="")
    training = StepRunner(assign, device)
    training.load()
    started = clock()
    training.build()
    _step(training)
    _wait(device)
    first = clock() - started
    if isinstance(training.data.train, Streamed):
        # Batches decoded in advance would be taken for a speed that lasts.
        for _ in range(AHEAD):
            _step(training)
    steps = max(1, min(TIMED_STEPS, training.batches - 1))
    started = clock()
    for _ in range(steps):
        _step(training)
    _wait(device)
    step = (clock() - started) / steps
    return {"seconds_per_epoch": step * training.batches + _validation(training, clock), "first_seconds": first}


def _step(training: StepRunner) -> None:
    training.state.batch %= training.batches
    with contextlib.suppress(DivergedError):  # it took its time all the same
        training.train_step()


def _validation(training: StepRunner, clock: Clock) -> float:
    """Seconds for all validation images, from one batch of them after a first one."""
    sums = torch.zeros_like(training.state.sums)
    count = len(training.data.held_out.labels)
    start = training.validate_step(0, sums)
    if count - start < start:  # no whole batch is left
        start = 0
    _wait(training.device)
    began = clock()
    stop = training.validate_step(start, sums)
    _wait(training.device)
    return (clock() - began) * count / (stop - start)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def main() -> None:
    """Read the question, print the answer; a mistake is one line on stderr and exit 1."""
    try:
        answer = calibrate(json.load(sys.stdin))
    except (EatnasError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        # CUDA's errors go on with hints for those who build it; a torch without CUDA asserts that it has it.
        print(repr(error) if isinstance(error, KeyError) else first_line(error), file=sys.stderr)
        sys.exit(1)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
