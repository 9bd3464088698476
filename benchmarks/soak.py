"""Run the checks that take too long for CI: storms, sweeps, and many seeds.

At the end of each step, the program appends a JSON line to `results/soak.jsonl`. The output of each step goes to a log
file in the same folder. A step that has passed on the current commit is not repeated, and an interrupted step continues
where it stopped if it can.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent
SOURCES = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
STORM_TESTS = ("test_storm.py", "test_crash_points.py", "test_faults.py", "test_disk_full.py")


@dataclass(frozen=True)
class SoakStep:
    """A program that runs for minutes or hours. It passes if its exit status is 0."""

    name: str
    arguments: Sequence[str]
    """The arguments of the Python interpreter."""
    environment: dict[str, str] = field(default_factory=dict)


def soak_steps(commit: str) -> list[SoakStep]:
    """Return all steps, shorter steps first. `commit` is part of the file names of steps that can continue."""

    def program(name: str) -> str:
        return str(BENCHMARKS / name)

    def out(name: str) -> str:
        return str(RESULTS / f"{name}-{commit}.jsonl")

    def tests(kind: str) -> list[str]:
        return ["-m", "pytest", "-q", "--soak", "-m", kind, str(SOURCES / "tests")]

    plugins = [program("chaos.py"), "--each", "0", "--real", "0", "--plugins", "60"]
    storms = [str(SOURCES / "tests" / "daemon" / name) for name in STORM_TESTS]
    return [
        SoakStep("convolutions", [program("convolutions.py")]),
        SoakStep("convolutions-avx2", [program("convolutions.py")], {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        SoakStep("imagenet", [program("imagenet.py")]),
        SoakStep("plugin-environment", [program("plugin_environment.py")]),
        SoakStep("storm-tests", ["-m", "pytest", "-q", *storms]),
        SoakStep("properties", tests("hypothesis and not soak")),
        SoakStep("sweep-tests", tests("soak")),
        SoakStep("ray", [program("ray_faults.py"), "--out", out("ray")]),
        SoakStep("live-page", [program("live_page.py"), "tick"]),
        SoakStep("live-page-day", [program("live_page.py"), "day"]),
        SoakStep("live-page-large", [program("live_page.py"), "paint"]),
        SoakStep("exports", [program("exports.py"), "--out", out("exports")]),
        SoakStep("seeds", [program("seeds.py"), "--out", out("seeds")]),
        SoakStep("chaos", [program("chaos.py"), "--out", out("chaos")]),
        SoakStep("plugins", [*plugins, "--out", out("plugins")]),
        SoakStep("rungs", [program("chaos.py"), "--rungs", "whole", "--each", "4", "--out", out("rungs")]),
        SoakStep("lanes", [program("chaos.py"), "--lanes", "4", "--each", "4", "--out", out("lanes")]),
        SoakStep("own-rungs", [program("chaos.py"), "--rungs", "rung", "--each", "4", "--out", out("own-rungs")]),
    ]


def current_commit() -> str:
    """Return the commit of the sources, marked if the sources have uncommitted changes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=SOURCES, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("-changed" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def read_passed(log: Path, commit: str) -> set[str]:
    """Return the names of the steps that have passed on a commit. Return none for sources with uncommitted changes."""
    if not log.exists() or "-" in commit or commit == "unknown":
        return set()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {line["step"] for line in lines if line["commit"] == commit and line["passed"]}


def run_step(step: SoakStep, commit: str) -> dict[str, Any]:
    """Run a step, write its output to a log file, and return its result."""
    file = RESULTS / f"{step.name}-{commit}.log"
    started_at, started = datetime.now(UTC), time.monotonic()
    with file.open("ab") as log:
        status = subprocess.run(
            [sys.executable, *step.arguments],
            env={**os.environ, **step.environment},
            cwd=SOURCES,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    lines = file.read_text(errors="replace").strip().splitlines()
    return {
        "step": step.name,
        "commit": commit,
        "started_at": started_at.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "passed": status == 0,
        "status": status,
        "last_line": lines[-1] if lines else "",
    }


def main() -> None:
    commit = current_commit()
    steps = {step.name: step for step in soak_steps(commit)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", nargs="+", choices=steps, default=list(steps), help="steps to run; default: all")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    log = RESULTS / "soak.jsonl"
    passed = read_passed(log, commit)
    failed = []
    for name in options.steps:
        if name in passed:
            print(f"{name}: has already passed on {commit}", flush=True)
            continue
        print(f"{name}: running; its output is in {RESULTS / f'{name}-{commit}.log'}", flush=True)
        result = run_step(steps[name], commit)
        with log.open("a") as file:
            file.write(json.dumps(result) + "\n")
        outcome = "passed" if result["passed"] else f"failed with status {result['status']}"
        print(f"{name}: {outcome} after {result['seconds']:.0f} s: {result['last_line']}", flush=True)
        if not result["passed"]:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
