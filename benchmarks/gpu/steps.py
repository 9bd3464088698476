"""The steps of `run.py`: the purpose, the program and the time limit of each. Needs only the standard library."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

PRODUCT, TRAINING = "product", "training"
PARTS = (PRODUCT, TRAINING)
PART_SECONDS = 240.0
"""The time limit of a part."""
KILL_SECONDS = 2.0
"""The longest wait for the end of a killed process. A process in a system call may not end."""
RESERVE_SECONDS = 10.0
"""The seconds at the end of a part in which no step runs: the last step is killed, and the files are removed."""
LEAST_SECONDS = 5.0
"""A step that has less time left is not started: on a GPU, a step takes seconds to begin."""


@dataclass(frozen=True)
class Step:
    """A step of a part: a subcommand of the program in this folder that has the part's name."""

    part: str
    name: str
    seconds: float
    """The time limit on a GPU, if the part has so much time left."""
    shows: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the program and its subcommand."""
        return f"{self.part}.py", self.name


STEPS = (
    Step(PRODUCT, "machine", 20, "versions, driver and GPU"),
    Step(PRODUCT, "tests", 60, "the GPU tests: same bits twice and resumed, no synchronisation"),
    Step(PRODUCT, "search", 110, "a search of 48: a killed worker, and another process that comes and goes"),
    Step(PRODUCT, "workers", 60, "one worker, four workers and four lanes give equal fingerprints"),
    Step(PRODUCT, "doctor", 30, "`doctor` finds no problem but missing MLflow"),
    Step(PRODUCT, "devices", 20, "`devices --explain` finds the GPU free"),
    Step(PRODUCT, "estimate", 40, "`search estimate` measures the GPU: the hours of the paper's search"),
    Step(PRODUCT, "memory", 45, "trainings that run out of memory are tried again, alone and then in halves"),
    Step(TRAINING, "machine", 20, "versions, driver and GPU"),
    Step(TRAINING, "bits", 75, "24 random networks: captured steps, again, and called steps have equal bits"),
    Step(
        TRAINING,
        "speed",
        70,
        "images/s: captured and called steps, one captured by hand, the bound of bandwidth",
    ),
    Step(TRAINING, "lanes", 35, "several candidates in turn in one process, each on a stream of its own: speed, bits"),
    Step(TRAINING, "depthwise", 45, "both layouts, for networks and depthwise convolutions: failures, bits, times"),
    Step(TRAINING, "norm", 35, "batch norm and ReLU fused in Triton: errors, bits, times, and the gain of a step"),
    Step(TRAINING, "pipeline", 45, "images/s: our loop, and a DataLoader with PIL"),
    Step(TRAINING, "processes", 50, "several processes on one GPU, without MPS and with it"),
)
"""The steps in the order of their importance, because the limits of a part add up to more than its time."""


class Budget:
    """The time that the steps of a part have left."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._ends_at = clock, clock() + seconds - RESERVE_SECONDS

    def cut(self, limit: float) -> float:
        """Return the limit, or the time that is left if this is less."""
        return min(limit, self._ends_at - self._clock())


def steps_of(part: str) -> tuple[Step, ...]:
    """Return the steps of a part in their order."""
    return tuple(step for step in STEPS if step.part == part)
