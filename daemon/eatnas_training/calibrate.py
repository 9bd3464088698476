"""`python -m eatnas_training.calibrate`: measure the duration of an epoch of each network on this machine.

Reads `{"codes": […], "macro": …, "task": …, "data": …, "training": …, "device": "cpu"}` from stdin and prints
`[{"images_per_second": …, "seconds_per_epoch": …, "setup_seconds": …}, …]`. `setup_seconds` is the time to build a
network and run its first steps, which are slower; on a GPU, it includes the capture of a step. `images_per_second` is
the speed of the later steps; on a GPU, these replay the captured step.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from eatnas_db.errors import EatnasError
from eatnas_db.garbage_collection import skip_last_collection
from eatnas_protocol.messages import Assign
from eatnas_training.answers import take_stdout
from eatnas_training.data.streaming import BATCHES_AHEAD, StreamedPart
from eatnas_training.error_messages import first_line
from eatnas_training.failures import DivergedError
from eatnas_training.steps import Clock, StepRunner

TIMED_STEPS: Final = 3
GPU_SECONDS: Final = 0.5
"""The minimum total time of the measured steps on a GPU, in seconds.

An idle GPU lowers its clock, and needs time to raise it.
"""


def calibrate(request: Mapping[str, Any], clock: Clock = time.perf_counter) -> list[dict[str, float]]:
    """Measure the training speed of each network. The time of an epoch includes validation. Raises `EatnasError`."""
    return [_measure(request, code, clock) for code in request["codes"]]


def _measure(request: Mapping[str, Any], code: list[list[int | float]] | str, clock: Clock) -> dict[str, float]:
    device = str(request.get("device", "cpu"))
    assign = Assign(
        candidate=0,
        attempt=0,
        code=code,
        macro=request["macro"],
        task=request["task"],
        data=request["data"],
        training=request["training"],
        seed=0,
        checkpoint_folder="",
        log_file="",
    )
    runner = StepRunner(assign, device)
    runner.load()
    started = clock()
    runner.build()
    for _ in range(runner.warm_up_steps):
        _step(runner)
    _synchronize(device)
    setup_seconds = clock() - started
    if isinstance(runner.data.train, StreamedPart):
        # Skip the batches that were decoded in advance, since they are faster than later batches.
        for _ in range(BATCHES_AHEAD):
            _step(runner)
    steps = max(1, min(TIMED_STEPS, runner.batches - 1))
    least_seconds = 0.0 if device == "cpu" else GPU_SECONDS

    def round_of_steps() -> None:
        for _ in range(steps):
            _step(runner)
        _synchronize(device)

    step_seconds = seconds_of_round(round_of_steps, least_seconds, clock) / steps
    return {
        "images_per_second": min(runner.recipe.batch_size, len(runner.data.train.labels)) / step_seconds,
        "seconds_per_epoch": step_seconds * runner.batches + _validation_seconds(runner, clock),
        "setup_seconds": setup_seconds,
    }


def seconds_of_round(call: Callable[[], None], least_seconds: float, clock: Clock) -> float:
    """Repeat a call until all calls together take `least_seconds`, and return the mean seconds of a call."""
    rounds, started = 0, clock()
    while rounds == 0 or clock() - started < least_seconds:
        call()
        rounds += 1
    return (clock() - started) / rounds


def _step(runner: StepRunner) -> None:
    runner.state.batch %= runner.batches
    with contextlib.suppress(DivergedError):  # a diverging step takes as long as any other
        runner.train_step()


def _validation_seconds(runner: StepRunner, clock: Clock) -> float:
    """Estimate the seconds for all validation images from the time of the second batch."""
    sums = torch.zeros_like(runner.state.sums)
    count = len(runner.data.held_out.labels)
    start = runner.validate_step(0, sums)
    if count - start < start:  # the second batch is incomplete or missing
        start = 0
    _synchronize(runner.device)
    started = clock()
    stop = runner.validate_step(start, sums)
    _synchronize(runner.device)
    return (clock() - started) * count / (stop - start)


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def main() -> None:
    """Read the request and print the answer; on an error, print one line to stderr and exit with status 1."""
    skip_last_collection()
    write_answer = take_stdout()
    try:
        answer = calibrate(json.load(sys.stdin))
    except (EatnasError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        # Print the first line only, because CUDA errors continue with advice for developers. A torch without CUDA
        # raises AssertionError.
        print(repr(error) if isinstance(error, KeyError) else first_line(error), file=sys.stderr)
        sys.exit(1)
    write_answer(answer)


if __name__ == "__main__":
    main()
