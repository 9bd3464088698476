"""Measure how much processor time commands take to start, relative to a process that only imports their libraries."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from eatnas_db.settings import load_settings
from support.recorded_search import make_record

REPETITIONS = 15
HELP_BASELINE = "import typer"
QUERY_BASELINE = "import typer, sqlalchemy"


def run_seconds(command: list[str], environment: dict[str, str]) -> float:
    """Run a command and return its processor time, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def default_url(home: Path) -> str:
    """Return the URL of the SQLite database in a home folder."""
    return load_settings({}, str(home)).database_url


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_record(Path(folder), default_url, name="trained")
        make_record(Path(folder, "new"), default_url, name="untrained", births=0)
        eatnas = [sys.executable, "-m", "eatnas_cli", "--home", folder]
        untrained = [sys.executable, "-m", "eatnas_cli", "--home", f"{folder}/new"]
        baselines = {code: [sys.executable, "-c", code] for code in ("pass", HELP_BASELINE, QUERY_BASELINE)}
        commands = {
            "eatnas-db --help": ([*eatnas, "--help"], HELP_BASELINE),
            "eatnas-db query --help": ([*eatnas, "query", "--help"], HELP_BASELINE),
            "eatnas-db query best": ([*eatnas, "query", "best", "trained"], QUERY_BASELINE),
            "  of an untrained search": ([*untrained, "query", "best", "untrained"], QUERY_BASELINE),
            "eatnas-db query lineage": ([*eatnas, "query", "lineage", "12"], QUERY_BASELINE),
            "eatnas-db query utilisation": ([*eatnas, "query", "utilisation", "trained"], QUERY_BASELINE),
            "eatnas-db candidate show": ([*eatnas, "candidate", "show", "12"], QUERY_BASELINE),
            "eatnas-db search list": ([*eatnas, "search", "list"], QUERY_BASELINE),
            "eatnas-db daemon status": ([*eatnas, "daemon", "status"], QUERY_BASELINE),
        }
        # The first run of each command is not counted: it compiles the modules, which are compiled already in an
        # installation.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        all_commands = baselines | {name: command for name, (command, _) in commands.items()}
        seconds: dict[str, list[float]] = {name: [] for name in all_commands}
        # The commands alternate, so that a busy machine affects all of them equally.
        for repetition in range(REPETITIONS + 1):
            for name, command in all_commands.items():
                taken = run_seconds(command, environment)
                if repetition:
                    seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        baseline = commands[name][1] if name in commands else None
        ratio = "" if baseline is None else f"  {median / medians[baseline]:.2f} times `{baseline}`"
        print(f"{name:<27} median {median:.3f} s  min {min(seconds[name]):.3f} s{ratio}")


if __name__ == "__main__":
    main()
