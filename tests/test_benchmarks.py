"""Every benchmark can be started. The measurements are not checked."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(
    file.relative_to(BENCHMARKS)
    for folder in ("", "experiments", "gpu")
    for file in (BENCHMARKS / folder).glob("*.py")
    # Leave out programs that parse no options, because `--help` would start their measurements.
    if "parse_args" in (text := file.read_text()) and "__main__" in text
)


# Each program runs in a fork of a process that has already loaded the slow libraries, and exits without cleaning up.
START_ALL = """
import gc, os, runpy, sys
import sqlalchemy, torch
gc.freeze()
for program in sys.argv[1:]:
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        sys.argv, sys.path[0] = [program, "--help"], os.path.dirname(program)
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as error:
            sys.stdout.flush()
            os._exit(error.code or 0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, program
"""


@pytest.mark.slow
def test_every_benchmark_prints_its_help():
    programs = [str(BENCHMARKS / program) for program in PROGRAMS]
    if importlib.util.find_spec("optuna") is None:
        programs = [program for program in programs if "import optuna" not in Path(program).read_text()]
    done = subprocess.run([sys.executable, "-c", START_ALL, *programs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(programs)
