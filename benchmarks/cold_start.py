"""Measure how fast commands start: the median time of whole processes, next to an interpreter that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from eatnas_cli.demo import DEMO_SMALL
from eatnas_cli.init import make_home
from eatnas_daemon.search_creation import create_search_from_spec
from eatnas_db.settings import load_settings

REPETITIONS = 11


def run_seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings({}, folder)
        make_home(settings)
        create_search_from_spec(settings, {"name": "cold", **DEMO_SMALL}, slots=2)
        eatnas = [sys.executable, "-m", "eatnas_cli", "--home", folder]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "eatnas-db --help": [*eatnas, "--help"],
            "eatnas-db query best": [*eatnas, "query", "best", "cold"],
            "eatnas-db query lineage": [*eatnas, "query", "lineage", "1"],
            "eatnas-db daemon status": [*eatnas, "daemon", "status"],
        }
        # The commands alternate, so that a busy machine disturbs all alike.
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(REPETITIONS):
            for name, command in commands.items():
                seconds[name].append(run_seconds(command))
        for name, values in seconds.items():
            print(
                f"{name:<26} median {statistics.median(values):.3f} s  (min {min(values):.3f}, max {max(values):.3f})"
            )


if __name__ == "__main__":
    main()
