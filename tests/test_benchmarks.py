"""Every benchmark can be started. What it measures is not checked."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(
    file.relative_to(BENCHMARKS)
    for folder in ("", "experiments", "gpu")
    for file in (BENCHMARKS / folder).glob("*.py")
    # Other programs have no options, so they would start to measure.
    if "parse_args" in (text := file.read_text()) and "__main__" in text
)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_benchmark_prints_its_help(program):
    if "import optuna" in (BENCHMARKS / program).read_text():
        pytest.importorskip("optuna", reason="optuna is not installed: pip install optuna")
    command = [sys.executable, str(BENCHMARKS / program), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
