"""The workloads of the storm's searches: simulated trainings, networks, or the example packages of plug-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SIMULATED_WORKER = (str(ROOT / "tests" / "support" / "simulated_worker.py"), "--scramble", "--seconds-per-epoch")
TORCH_WORKER = ("-m", "eatnas_training.worker")
TRAINING: dict[str, Any] = {"epochs": 8, "batch_size": 32, "augment": "none", "checkpoint_seconds": 1.0}


@dataclass(frozen=True, eq=False)
class Workload:
    """The trainings of a search's candidates."""

    name: str
    spec: dict[str, Any]
    simulated: bool = False
    uses_packages: bool = False
    """Whether the search needs the example packages. All processes of the storm import them."""
    disk_megabytes: int = 512
    """The size in MiB of the small disk for the fault `disk_full`."""
    without: tuple[str, ...] = ()
    """Faults that the daemon does not notice within a minute."""

    def worker_program(self, seconds_per_epoch: str) -> tuple[str, ...]:
        """Return the arguments with which the interpreter starts a worker."""
        return (*SIMULATED_WORKER, seconds_per_epoch) if self.simulated else TORCH_WORKER


SIMULATED = Workload(
    "simulated",
    {"training": {"epochs": 4}, "budget": {"candidates": 30}},
    simulated=True,
    disk_megabytes=64,
)
TORCH = Workload(
    "torch",
    {"training": TRAINING, "objective": {"max_mult_adds": 2_500_000}, "budget": {"candidates": 12}},
)
PLUGINS = Workload(
    "plugins",
    {
        "space": "ghost-tiny",
        "data": {"name": "shapes", "options": {"count": 600}, "stratify": True},
        "training": {**TRAINING, "epochs": 6},
        "inheritance": {"weights": "inherited"},
        "budget": {"candidates": 12},
    },
    uses_packages=True,
)
"""The operator, the space and the data set of the example packages, with the built-in training."""
PROGRAM = Workload(
    "program",
    {
        "space": "ghost-tiny",
        "data": {"name": "none"},
        "training": {
            "program": "eatnas_words:train",
            "epochs": 400,
            "learning_rate": 0.01,
            "checkpoint_seconds": 0.5,
            "options": {"context": 8},
        },
        "objective": {"metric": "perplexity", "direction": "minimize"},
        "budget": {"candidates": 12},
    },
    uses_packages=True,
    without=("worker_frozen",),  # a program may be silent for 15 minutes
)
"""The training of the example packages, in the space of the example packages."""
WORKLOADS = {workload.name: workload for workload in (SIMULATED, TORCH, PLUGINS, PROGRAM)}


def install_examples(folder: Path) -> None:
    """Install the example packages into a folder that this process and all its children import from."""
    site = folder / "site"
    for source in sorted((ROOT / "examples" / "plugins").iterdir()):
        copy = shutil.copytree(source, folder / "sources" / source.name)
        options = ("--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--target", str(site))
        subprocess.run([sys.executable, "-m", "pip", "install", *options, str(copy)], check=True)
    sys.path.insert(0, str(site))
    earlier = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([earlier] if earlier else [])])
