"""Test eatnas-db on a machine with a GPU and no network access. Each part (`--part`) takes at most four minutes.

    python3 run.py --part product --out FOLDER      # doctor, devices, tests, searches
    python3 run.py --part training --out FOLDER     # bits and speed of the training

The program installs eatnas-db from the folder that `prepare.py` made: the folder of this file, or `--bundle`. Each step
is a process with a time limit. If a step fails, the next step still runs. A step for which no time is left does not
run. `gpu-PART.json` and the page `gpu-PART.md` in the output folder hold all results so far, including those of the
running step. `--device cpu` rehearses everything with tiny sizes on a machine without a GPU, and gives each part and
step four times as long.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import NO_TIME_LEFT, RUNNING, Results, read_facts
from steps import KILL_SECONDS, LEAST_SECONDS, PART_SECONDS, PARTS, Budget, Step, steps_of

SKIPPED_STATUS = 77
"""The exit status of a step that does not apply to the machine."""
INSTALL_SECONDS = 60.0
REHEARSAL_FACTOR = 4.0
"""The factor by which the time limits are longer on a CPU, which may be slow and busy."""
OUTPUT_LINES = 60
"""The number of last lines of a step's output that the JSON keeps."""
OUTPUT_BYTES = 1 << 16
"""The number of last bytes of a step's output that are searched for these lines, because a step may print endlessly."""
POLL_SECONDS = 0.5
MARK = "EATNAS_GPU_RUN"
"""The environment variable that identifies the processes of a run, because workers leave the session of their step."""
STOP_SIGNALS = signal.SIGTERM, signal.SIGINT


class StoppedError(Exception):
    """A signal has stopped the run."""


def stop(number: int, _: FrameType | None) -> NoReturn:
    """Handle a signal by stopping the run.

    Ignore later signals, which would interrupt the kill of the running step. The command `timeout` sends two signals.
    """
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise StoppedError(f"stopped by {signal.Signals(number).name}")


def run_process(
    command: list[str], *, seconds: float, folder: Path, work: Path, log: Path, poll: Callable[[], None]
) -> int | None:
    """Run a command and return its status, or None if it ran out of time.

    Call `poll` repeatedly while the command runs. At the end, kill all processes that the command has started.
    """
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment_of(work),
            cwd=folder,
            stdin=subprocess.PIPE,  # closes when this process ends, which ends the step, too
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        status: int | None = None
        try:
            while status is None and (left := started + seconds - time.monotonic()) > 0:
                with suppress(subprocess.TimeoutExpired):
                    status = process.wait(min(POLL_SECONDS, left))
                poll()
        finally:
            kill_all(process, work)
    return status


def environment_of(work: Path) -> dict[str, str]:
    """Return the environment variables of the processes of a run in this folder."""
    return {
        **os.environ,
        MARK: str(work),
        "PYTHONPATH": str(work / "site"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "EATNAS_HOME": str(work / "home"),
        "TMPDIR": str(work / "tmp"),
    }


def kill_all(process: subprocess.Popen[bytes], work: Path) -> None:
    """Kill a process, its group and, on Linux, all processes that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    mark = f"{MARK}={work}".encode()
    for variables in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in variables.read_bytes().split(b"\0"):
                os.kill(int(variables.parent.name), signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)
    assert process.stdin is not None
    process.stdin.close()


def install(bundle: Path, work: Path, results: Results, limit: float) -> bool:
    """Install the wheels into a new folder, and unpack the sources. Return whether both succeeded."""
    wheels = sorted(str(wheel) for wheel in (bundle / "wheels").glob("*.whl"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(work / "site"), *wheels]
    row = new_row("install", "the bundled wheels install without internet access", limit)
    results.add(row)
    log = work / "install.log"
    record_run(row, command, folder=work, work=work, log=log, facts=work / "none", results=results)
    try:
        shutil.unpack_archive(bundle / "sources.tar.gz", work / "sources")
    except (OSError, shutil.ReadError) as error:
        row |= {"outcome": "failed", "output": [*row["output"], str(error)]}
        results.write()
    return bool(row["outcome"] == "passed")


def new_row(name: str, shows: str, limit: float) -> dict[str, Any]:
    """Return the initial result of a step."""
    row = {"name": name, "shows": shows, "outcome": RUNNING, "status": None, "seconds": 0.0}
    return {**row, "limit": round(limit, 1), "facts": {}, "output": []}


def record_run(
    row: dict[str, Any], command: list[str], *, folder: Path, work: Path, log: Path, facts: Path, results: Results
) -> None:
    """Run a command within the limit of its row, and keep the row up to date."""
    started = results.seconds

    def record() -> None:
        found, output = read_facts(facts), last_lines(log)
        if (found, output) != (row["facts"], row["output"]) or row["outcome"] != RUNNING:
            row.update(facts=found, output=output, seconds=round(results.seconds - started, 1))
            results.write()

    try:
        status = run_process(command, seconds=row["limit"], folder=folder, work=work, log=log, poll=record)
        outcome = {0: "passed", None: "out of time", SKIPPED_STATUS: "skipped"}.get(status, "failed")
        row |= {"outcome": outcome, "status": status}
        record()
    except OSError as error:
        row |= {"outcome": "failed", "output": [str(error)]}
        results.write()
    except StoppedError as error:
        row["outcome"] = str(error)
        record()
        raise
    print(f"{row['name']}: {row['outcome']} after {row['seconds']:.1f} s", flush=True)


def last_lines(file: Path) -> list[str]:
    """Return the last lines of a text file, or no lines if the file does not exist."""
    if not file.exists():
        return []
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - OUTPUT_BYTES))
        return log.read(OUTPUT_BYTES).decode(errors="replace").splitlines()[-OUTPUT_LINES:]


def run_steps(
    steps: Iterable[Step], budget: Budget, results: Results, run: Callable[[Step, dict[str, Any]], None], factor: float
) -> None:
    """Run each step within its limit and the time that the part has left; `run` completes the row of a step."""
    for step in steps:
        row = new_row(step.name, step.shows, budget.cut(step.seconds * factor))
        results.add(row)
        if row["limit"] < LEAST_SECONDS:
            row |= {"outcome": NO_TIME_LEFT, "limit": 0.0}
            results.write()
        else:
            run(step, row)


def run_step(step: Step, row: dict[str, Any], options: argparse.Namespace, work: Path, results: Results) -> None:
    """Run the program of a step within the limit of its row."""
    facts, log, folder = work / f"{step.name}.json", work / f"{step.name}.log", work / "sources"
    program, name = step.arguments
    command = [sys.executable, str(folder / "benchmarks" / "gpu" / program), name]
    command += ["--device", options.device, "--facts", str(facts), "--seconds", f"{row['limit']:.0f}"]
    command += ["--started", str(time.monotonic())]  # the imports of a step take seconds
    data = options.bundle / "FashionMNIST"
    if data.exists():
        command += ["--root", str(data)]
    record_run(row, command, folder=folder, work=work, log=log, facts=facts, results=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument(
        "--device", default="cuda:0", help="cuda:N, or cpu to rehearse with tiny sizes; default: cuda:0"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        default=Path(__file__).parent,
        help="folder that prepare.py made; default: the folder of this file",
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-results")))
    parser.add_argument("--steps", nargs="+", help="names of the steps to run; default: all")
    parser.add_argument(
        "--seconds", type=float, default=PART_SECONDS, help="time limit of all steps together in seconds; default: 240"
    )
    options = parser.parse_args()
    options.bundle = options.bundle.resolve()
    factor = REHEARSAL_FACTOR if options.device == "cpu" else 1.0
    budget = Budget(options.seconds * factor)
    steps = [step for step in steps_of(options.part) if not options.steps or step.name in options.steps]
    commit = options.bundle / "commit"
    facts = {
        "commit": commit.read_text().strip() if commit.exists() else "unknown",
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": options.device,
        "python": sys.version.split()[0],
        "limit": options.seconds * factor,
    }
    results = Results(options.out.resolve(), options.part, facts)
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    work = Path(tempfile.mkdtemp(prefix="eatnas-gpu-"))
    (work / "tmp").mkdir()
    try:
        if install(options.bundle, work, results, budget.cut(INSTALL_SECONDS * factor)):
            run_steps(steps, budget, results, lambda step, row: run_step(step, row, options, work, results), factor)
    except StoppedError as error:
        sys.exit(str(error))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    outcomes = [row["outcome"] for row in results.content["steps"]]
    print(f"{options.part}: {outcomes.count('passed')} of {len(outcomes)} steps passed in {results.seconds:.0f} s")
    sys.exit(0 if set(outcomes) <= {"passed", "skipped"} else 1)


if __name__ == "__main__":
    main()
