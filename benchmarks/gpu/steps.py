"""The steps of `run.py`: the purpose, program and time limit of each. This module needs only the standard library."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

PRODUCT, TRAINING = "product", "training"
PARTS = (PRODUCT, TRAINING)
PART_SECONDS = 240.0
"""The time limit of a part in seconds."""
KILL_SECONDS = 2.0
"""The longest wait, in seconds, for a killed process to end. A process in a system call may not end."""
RESERVE_SECONDS = 10.0
"""The seconds at the end of a part that are kept free for killing the last step and removing the files."""
LEAST_SECONDS = 5.0
"""A step with fewer seconds left is not started, because a step on a GPU takes seconds to begin."""


@dataclass(frozen=True)
class Step:
    """A step of a part: a subcommand of the program in this folder that has the part's name."""

    part: str
    name: str
    seconds: float
    """The time limit in seconds on a GPU. A part with less time left shortens the limit."""
    shows: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the program and its subcommand."""
        return f"{self.part}.py", self.name


STEPS = (
    Step(PRODUCT, "machine", 20, "versions, driver and GPU"),
    Step(PRODUCT, "tests", 60, "the GPU tests pass: equal bits when repeated and when resumed, no synchronisation"),
    Step(PRODUCT, "search", 110, "a search of 48 survives a killed worker and another process on the GPU"),
    Step(PRODUCT, "workers", 60, "one worker, four workers and four lanes give equal fingerprints"),
    Step(PRODUCT, "doctor", 30, "`doctor` finds no problem except the missing MLflow"),
    Step(PRODUCT, "devices", 20, "`devices --explain` finds the GPU free"),
    Step(PRODUCT, "estimate", 40, "`search estimate` measures the GPU and estimates the paper's search"),
    Step(PRODUCT, "memory", 45, "trainings that run out of memory are tried again, alone and then in halves"),
    Step(TRAINING, "machine", 20, "versions, driver and GPU"),
    Step(TRAINING, "bits", 75, "24 random networks: two captured runs and a called run have equal bits"),
    Step(
        TRAINING,
        "speed",
        70,
        "images/s of captured, called and hand-written steps, and the bound by memory bandwidth",
    ),
    Step(TRAINING, "lanes", 35, "speed and bits of several candidates in turn in one process, each on its own stream"),
    Step(TRAINING, "depthwise", 45, "failures, bits and times of networks and depthwise convolutions in both layouts"),
    Step(TRAINING, "norm", 35, "errors, bits and times of batch norm and ReLU fused in Triton; speed-up of a step"),
    Step(TRAINING, "pipeline", 45, "images/s of the training loop, and of a DataLoader with PIL"),
    Step(TRAINING, "processes", 50, "speed of several processes on one GPU, without and with MPS"),
)
"""The steps in the order of their importance, because the limits of a part add up to more than its time."""


class Budget:
    """The time that the steps of a part have left."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._ends_at = clock, clock() + seconds - RESERVE_SECONDS

    def cut(self, limit: float) -> float:
        """Return the limit, or the time that is left if that time is shorter."""
        return min(limit, self._ends_at - self._clock())


def steps_of(part: str) -> tuple[Step, ...]:
    """Return the steps of a part in their order."""
    return tuple(step for step in STEPS if step.part == part)
