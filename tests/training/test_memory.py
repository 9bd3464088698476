"""The estimate of a training's memory agrees with the memory of its tensors."""

import subprocess
import sys
from pathlib import Path

import pytest

from eatnas_protocol.messages import Failed, Phase, Progress
from eatnas_training.worker import train_beside

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
    """The shares of the trainings add up to the memory of the process, even if some of its lanes are not training."""
    report, phase = Progress(1, 1, 0, 1, 2, 0.5, memory_bytes=6), Phase(1, 1, "saving")
    trainings = iter([1, 2, 3])
    shared = list(train_beside(iter([report, None, report, phase, report]), lambda: next(trainings)))
    assert shared[1::2] == [None, phase]
    assert [one.memory_bytes for one in shared[::2]] == [6, 3, 2]


@pytest.mark.parametrize(("trainings", "kind"), [(1, "exception"), (2, "lost")])
def test_cuda_error_next_to_other_trainings_blames_nobody(trainings, kind):
    """The next CUDA call reports the error, whichever training of the process makes the call."""
    failed = Failed(1, 1, "exception", "CUDA error: device-side assert triggered", "", 0.5, fatal=True)
    (report,) = train_beside(iter([failed]), lambda: trainings)
    assert report.kind == kind
