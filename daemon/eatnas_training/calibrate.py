"""`python -m eatnas_training.calibrate`: how long an epoch of each network would take here.

Reads `{"codes": […], "macro": …, "task": …, "data": …, "training": …, "device": "cpu"}` on stdin and prints
`[{"seconds_per_epoch": …, "first_seconds": …}, …]`: `first_seconds` is building and the first step.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import torch

from eatnas_db.domain.messages import Assign
from eatnas_db.errors import EatnasError
from eatnas_training.loop import Training

TIMED_STEPS: Final = 3


def calibrate(asked: Mapping[str, Any]) -> list[dict[str, float]]:
    """Seconds for one epoch, validation included, of each code. Raises `EatnasError`."""
    return [_timed(asked, code) for code in asked["codes"]]


def _timed(asked: Mapping[str, Any], code: list[list[int | float]]) -> dict[str, float]:
    settings = {key: asked[key] for key in ("macro", "task", "data", "training")}
    device = str(asked.get("device", "cpu"))
    assign = Assign(0, 0, code, **settings, seed=0, checkpoint_folder="", log_file="")
    training = Training(assign, device)
    training.load()
    started = time.perf_counter()
    training.build()
    training.step()
    _wait(device)
    first = time.perf_counter() - started
    steps = max(1, min(TIMED_STEPS, training.batches - 1))
    started = time.perf_counter()
    for _ in range(steps):
        training.state.batch %= training.batches
        training.step()
    _wait(device)
    step = (time.perf_counter() - started) / steps
    sums = torch.zeros_like(training.state.sums)
    count = len(training.data.validation.labels)
    training.validate_batch(0, sums)
    started = time.perf_counter()
    done = training.validate_batch(0, sums)
    _wait(device)
    validation = (time.perf_counter() - started) * count / done
    return {"seconds_per_epoch": step * training.batches + validation, "first_seconds": first}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def main() -> None:
    """Read the question, print the answer; a mistake is one line on stderr and exit 1."""
    try:
        answer = calibrate(json.load(sys.stdin))
    except (EatnasError, ValueError, KeyError) as error:
        print(error if isinstance(error, EatnasError) else repr(error), file=sys.stderr)
        sys.exit(1)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
