"""The command line of a step and the file of its facts."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SKIPPED_STATUS = 77


class Facts:
    """The measurements of a step, written to a file after each change.

    A required bar that is not met fails the step.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._facts: dict[str, Any] = {}
        self.failed = False

    def set(self, name: str, value: Any) -> None:
        """Set a fact."""
        self._facts[name] = value
        self._write()

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Add a row to a table, and print it."""
        self._facts.setdefault(name, []).append(row)
        print(name, *(f"{key}={value}" for key, value in row.items()), flush=True)
        self._write()

    def bar(self, bar: str, measured: Any, wanted: str, *, met: bool, must: bool = True) -> None:
        """Add a bar. If `must` is true, the step fails unless the bar is met; otherwise the bar is a goal."""
        self.failed = self.failed or (must and not met)
        self.add("bars", {"bar": bar, "measured": measured, "wanted": wanted, "met": met})

    def _write(self) -> None:
        if self._file is not None:
            partial = self._file.with_suffix(".partial")  # a kill must not leave half a file
            partial.write_text(json.dumps(self._facts, default=str))
            partial.replace(self._file)


class Context:
    """The options of a step and its facts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device: str = options.device
        self.root: str | None = options.root
        self.facts = Facts(options.facts)
        started = time.monotonic() if options.started is None else options.started
        self._ends_at = started + 0.9 * options.seconds

    @property
    def gpu(self) -> bool:
        """Return whether the device is a GPU. On a CPU, all sizes are tiny."""
        return self.device != "cpu"

    @property
    def seconds_left(self) -> float:
        """Return the seconds until the step should end by itself."""
        return self._ends_at - time.monotonic()

    def skip(self, why: str) -> None:
        """Print the reason why the step does not apply to this machine, and end the step."""
        print(why)
        sys.exit(SKIPPED_STATUS)


def run_program(description: str | None, steps: Mapping[str, Callable[[Context], None]]) -> None:
    """Run the step that the command line names, and exit with its status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("step", choices=steps)
    parser.add_argument(
        "--device", default="cuda:0", help="cuda:N, or cpu to rehearse with tiny sizes; default: cuda:0"
    )
    parser.add_argument("--root", help="folder of FashionMNIST's files; default: train on the bundled digits")
    parser.add_argument("--facts", type=Path, help="file for the measurements; default: none")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of the step in seconds; default: 60")
    parser.add_argument("--started", type=float, help="time.monotonic() at the start of the limit; default: now")
    options = parser.parse_args()
    if "EATNAS_GPU_RUN" in os.environ:
        threading.Thread(target=end_with_run, daemon=True).start()
    context = Context(options)
    steps[options.step](context)
    sys.exit(1 if context.facts.failed else 0)


def end_with_run() -> None:
    """Kill this process and its children when `run.py`, which holds the other end of the standard input, has ended."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)
