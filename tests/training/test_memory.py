"""The estimate of a training's memory, compared with the memory of its tensors."""

import subprocess
import sys
from pathlib import Path

import pytest

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
