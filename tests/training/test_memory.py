"""The estimate of a training's memory, compared with the memory of its tensors."""

import subprocess
import sys
from pathlib import Path

import pytest

from eatnas_protocol.messages import Phase, Progress
from eatnas_training.worker import share_memory

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.mark.parametrize(
    ("networks", "precision"),
    [
        pytest.param(5, "float32", marks=pytest.mark.slow),
        pytest.param(2, "bfloat16", marks=pytest.mark.slow),
        pytest.param(21, "float32", marks=pytest.mark.soak),
        pytest.param(6, "bfloat16", marks=pytest.mark.soak),
    ],
)
def test_estimate_is_within_a_factor_of_two(networks, precision):
    command = [sys.executable, str(BENCHMARK), "--networks", str(networks), "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_trainings_of_a_process_share_its_memory():
    """The shares add up to the memory of the process, also if not all of its lanes train."""
    report, phase = Progress(1, 1, 0, 1, 2, 0.5, memory_bytes=6), Phase(1, 1, "saving")
    trainings = iter([1, 2, 3])
    shared = list(share_memory(iter([report, None, report, phase, report]), lambda: next(trainings)))
    assert shared[1::2] == [None, phase]
    assert [one.memory_bytes for one in shared[::2]] == [6, 3, 2]
