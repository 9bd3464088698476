"""The steps of `run.py`: the purpose, the program and the time limit of each. Needs only the standard library."""

from __future__ import annotations

from dataclasses import dataclass

PRODUCT, TRAINING = "product", "training"
PARTS = (PRODUCT, TRAINING)
PART_SECONDS = 240.0
"""The time limit of a part. The rest of this time also limits each step."""


@dataclass(frozen=True)
class Step:
    """A step of a part: a subcommand of the program in this folder that has the part's name."""

    part: str
    name: str
    seconds: float
    """The time limit on a GPU."""
    shows: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the program and its subcommand."""
        return f"{self.part}.py", self.name


STEPS = (
    Step(PRODUCT, "machine", 20, "versions, driver and GPU"),
    Step(PRODUCT, "doctor", 60, "`doctor` finds no problem but missing MLflow"),
    Step(PRODUCT, "devices", 20, "`devices --explain` finds the GPU free"),
    Step(PRODUCT, "tests", 60, "the GPU tests: same bits twice and resumed, no synchronisation"),
    Step(PRODUCT, "search", 120, "a search of 48: a killed worker, and another process that comes and goes"),
    Step(PRODUCT, "workers", 60, "one worker, four workers and four lanes give equal fingerprints"),
    Step(PRODUCT, "memory", 45, "trainings that run out of memory are tried again, alone and then in halves"),
    Step(TRAINING, "machine", 20, "versions, driver and GPU"),
    Step(TRAINING, "bits", 75, "24 random networks: captured steps, again, and called steps have equal bits"),
    Step(
        TRAINING,
        "speed",
        70,
        "images/s: captured and called steps, one captured by hand, the bound of bandwidth",
    ),
    Step(TRAINING, "pipeline", 45, "images/s: our loop, and a DataLoader with PIL"),
    Step(TRAINING, "depthwise", 35, "depthwise convolutions in both layouts: failures, bits, times"),
    Step(TRAINING, "lanes", 35, "several candidates in turn in one process, each on a stream of its own: speed, bits"),
    Step(TRAINING, "processes", 50, "several processes on one GPU, without MPS and with it"),
)


def steps_of(part: str) -> tuple[Step, ...]:
    """Return the steps of a part in their order."""
    return tuple(step for step in STEPS if step.part == part)
