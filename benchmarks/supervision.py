"""Measure the cost of the supervisor: the gap between two candidates, the throughput, and the load at rest.

The program runs the same trainings by turns under a supervisor with one worker per core, and in one bare loop per core
without a database or a worker protocol. Then it measures the load of an idle daemon.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.utilisation import get_utilisation
from eatnas_db.schema.candidates import candidate
from eatnas_db.searches.create import create_search
from eatnas_db.settings import Settings, load_settings
from eatnas_migrations import commands
from eatnas_protocol.messages import Finished, Phase

SPEC = {
    "name": "s",
    "seed": 3,
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"batch_size": 32, "augment": "none"},
    "evolution": {"population": 8, "tournament": 4, "lag": 6},
    "objective": {"max_mult_adds": 2_500_000},
    "reevaluation": {"top": 0},
}
BARE_LOOP = """
import json, sys, time
from eatnas_protocol.messages import Assign
from eatnas_training import loop, selftest
from eatnas_training.worker_protocol import StopRequest
selftest.train_all_operations("cpu")
assignments = [Assign(**fields) for fields in json.load(sys.stdin)]
started = time.perf_counter()
for assignment in assignments:
    for report in loop.train(assignment, lambda: StopRequest.NONE):
        pass
print(time.perf_counter() - started, flush=True)
"""
LOADING_SECONDS = 20
"""After this time an idle daemon has imported all its modules."""


class TimedLauncher(Launcher):
    """Records the times at which each worker finishes a candidate and starts to train."""

    reports: list[tuple[int, str, float]]
    """The slot, the name of the message and the time."""

    def __init__(self, log_folder: Path) -> None:
        super().__init__(log_folder)
        object.__setattr__(self, "reports", [])

    def launch(self, slot: int, device: DeviceSnapshot = CPU_DEVICE) -> WorkerProcess:
        process = super().launch(slot, device)
        receive = process.receive

        def timed_receive() -> Any:
            messages, ended = receive()
            now = time.perf_counter()
            for message in messages:
                if isinstance(message, Finished) or (isinstance(message, Phase) and message.phase == "training"):
                    self.reports.append((slot, type(message).__name__, now))
            return messages, ended

        process.receive = timed_receive  # type: ignore[method-assign]
        return process


@dataclass(frozen=True)
class SupervisedRun:
    """A search under the supervisor."""

    seconds: float
    """The seconds from the start of the first training to the last report."""
    gaps: list[float]
    """The seconds between the end of a training and the start of the next training in the same worker."""
    assignments: list[dict[str, Any]]


def new_home(folder: Path, candidates: int, epochs: int) -> Settings:
    settings = load_settings({}, str(folder))
    folder.mkdir()
    engine = create_engine_for(settings.database_url)
    commands.upgrade(engine)
    with transaction(engine) as connection:
        spec = parse_spec(SPEC, {"budget.candidates": candidates, "training.epochs": epochs})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="digits", slots=2, now=time.time())
    return settings


def run_supervised(settings: Settings, slots: int) -> SupervisedRun:
    """Run the search with real workers."""
    launcher = TimedLauncher(settings.logs)
    engine = open_record(settings.database_url)
    supervisor = Supervisor(engine, settings, launcher, slots=slots, host_name="here", only="s")
    assignments: dict[int, dict[str, Any]] = {}

    def note_assignments(now: Supervisor) -> None:
        for slot in now.slots:
            if slot.training is not None:
                assign = slot.training.assignment.message
                assignments[assign.candidate] = {name: getattr(assign, name) for name in assign.__slots__}

    supervisor.run(note_assignments)
    times = [at for _, _, at in launcher.reports]
    gaps = []
    for number in range(slots):
        reports = [(name, at) for slot, name, at in launcher.reports if slot == number]
        pairs = itertools.pairwise(reports)
        gaps += [start - end for (first, end), (second, start) in pairs if (first, second) == ("Finished", "Phase")]
    return SupervisedRun(max(times) - min(times), gaps, list(assignments.values()))


def run_bare(assignments: Sequence[dict[str, Any]], processes: int, folder: Path) -> float:
    """Run the same trainings in bare loops and return the seconds of the slowest loop."""
    loops = []
    for number in range(processes):
        own = [{**fields, "checkpoint_folder": str(folder / str(number))} for fields in assignments[number::processes]]
        command = [sys.executable, "-c", BARE_LOOP]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(own))
        process.stdin.close()
        loops.append(process)
    seconds = []
    for process in loops:
        assert process.stdout is not None
        seconds.append(float(process.stdout.read().split()[-1]))
        process.wait()
    return max(seconds)


def print_load_at_rest(folder: Path, seconds: float) -> None:
    """Print the memory and the processor time of a daemon without searches."""
    environment = {**os.environ, "EATNAS_HOME": str(folder)}
    command = [sys.executable, "-m", "eatnas_cli"]
    subprocess.run([*command, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
    daemon = subprocess.Popen(
        [*command, "daemon", "start", "--foreground", "--slots", "1"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(LOADING_SECONDS)
        process = psutil.Process(daemon.pid)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        used = after.user + after.system - before.user - before.system
        resident = process.memory_info().rss / 1e6
        print(f"supervisor at rest: {resident:.0f} MB resident, {100 * used / seconds:.2f}% of a core")
    finally:
        daemon.terminate()
        daemon.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument(
        "--epochs", type=int, default=12, help="number of epochs of a candidate; its training should take at least 3 s"
    )
    parser.add_argument("--pairs", type=int, default=3, help="number of pairs of a supervised run and a bare run")
    parser.add_argument("--rest", type=float, default=30.0, metavar="S", help="seconds to watch the idle daemon")
    options = parser.parse_args()
    slots = os.cpu_count() or 1
    ratios, gaps, shares = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for pair in range(options.pairs):
            settings = new_home(folder / str(pair), options.candidates, options.epochs)
            run = run_supervised(settings, slots)
            bare_seconds = run_bare(run.assignments, slots, folder / f"bare-{pair}")
            with read_transaction(open_record(settings.database_url)) as connection:
                share = get_utilisation(connection, 1, time.time()).training
                count = connection.execute(select(func.count()).select_from(candidate)).scalar_one()
            assert len(run.assignments) == count, (len(run.assignments), count)
            assert share is not None
            ratios.append(bare_seconds / run.seconds)
            gaps += run.gaps
            shares.append(share)
            print(
                f"  pair {pair}: supervised {run.seconds:.1f} s, bare {bare_seconds:.1f} s, "
                f"{run.seconds * slots / count:.1f} s per candidate"
            )
        print(
            f"throughput relative to bare loops: {100 * statistics.median(ratios):.1f}% "
            f"(median of {options.pairs} pairs, {slots} slots, {options.candidates} candidates)"
        )
        print(
            f"time inside training steps: {100 * statistics.median(shares):.1f}% "
            "from the start of the first candidate to the end of the last"
        )
        print(
            f"gap between candidates on a worker: median {1000 * statistics.median(gaps):.1f} ms, "
            f"maximum {1000 * max(gaps):.1f} ms, {len(gaps)} gaps"
        )
        print_load_at_rest(folder / "rest", options.rest)


if __name__ == "__main__":
    main()
