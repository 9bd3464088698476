"""What the supervisor costs: the gap on a warm worker, candidates a minute beside bare loops, and its rest.

The same trainings run twice, by turns: through the supervisor with one real worker for each core, and in one
bare loop for each core, which knows neither record nor protocol. Then a daemon with nothing to do is watched.
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
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher, WorkerProcess
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

TREE = {
    "name": "s",
    "seed": 3,
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"batch_size": 32, "augment": "none"},
    "evolution": {"population": 8, "tournament": 4, "lag": 6},
    "objective": {"max_mult_adds": 2_500_000},
    "yardstick": {"top": 0},
}
BARE = """
import json, sys, time
from eatnas_protocol.messages import Assign
from eatnas_training import loop, selftest
from eatnas_training.worker_protocol import StopRequest
selftest.train_all_operations("cpu")
assigns = [Assign(**fields) for fields in json.load(sys.stdin)]
started = time.perf_counter()
for assign in assigns:
    for report in loop.train(assign, lambda: StopRequest.NONE):
        pass
print(time.perf_counter() - started, flush=True)
"""


class Timed(Launcher):
    """Notes when each worker says that a candidate is finished, and that the next one trains."""

    def __init__(self, log_folder: Path) -> None:
        super().__init__(log_folder)
        object.__setattr__(self, "heard", [])

    heard: list[tuple[int, str, float]]

    def launch(self, slot: int, device: DeviceSnapshot = CPU_DEVICE) -> WorkerProcess:
        process = super().launch(slot, device)
        receive = process.receive

        def timed() -> Any:
            messages, ended = receive()
            now = time.perf_counter()
            for message in messages:
                if isinstance(message, Finished) or (isinstance(message, Phase) and message.phase == "training"):
                    self.heard.append((slot, type(message).__name__, now))
            return messages, ended

        process.receive = timed  # type: ignore[method-assign]
        return process


def new_home(folder: Path, candidates: int, epochs: int) -> Settings:
    settings = load_settings({}, str(folder))
    folder.mkdir()
    engine = create_engine_for(settings.database_url)
    commands.upgrade(engine)
    with transaction(engine) as connection:
        spec = parse_spec(TREE, {"budget.candidates": candidates, "training.epochs": epochs})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="digits", slots=2, now=time.time())
    return settings


def supervised(settings: Settings, slots: int) -> tuple[float, list[float], list[dict[str, Any]]]:
    """Seconds from the first training's start to the end, the gaps, and what was assigned."""
    engine = open_record(settings.database_url)
    launcher = Timed(settings.logs)
    supervisor = Supervisor(engine, settings, launcher, slots=slots, host_name="here", only="s")
    assigned: dict[int, dict[str, Any]] = {}

    def note(now: Supervisor) -> None:
        for slot in now.slots:
            if slot.training is not None:
                assign = slot.training.assignment.assign
                assigned[assign.candidate] = {name: getattr(assign, name) for name in assign.__slots__}

    supervisor.run(note)
    times = [when for _, _, when in launcher.heard]
    gaps = []
    for number in range(slots):
        own = [(kind, when) for slot, kind, when in launcher.heard if slot == number]
        gaps += [b - a for (x, a), (y, b) in itertools.pairwise(own) if (x, y) == ("Finished", "Phase")]
    return max(times) - min(times), gaps, list(assigned.values())


def bare(assigned: list[dict[str, Any]], slots: int, folder: Path) -> float:
    """Seconds for the same trainings, in one loop for each core."""
    shares: list[list[dict[str, Any]]] = [assigned[number::slots] for number in range(slots)]
    processes = []
    for number, share in enumerate(shares):
        own = [{**fields, "checkpoint_folder": str(folder / str(number))} for fields in share]
        process = subprocess.Popen(
            [sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(own))
        process.stdin.close()
        processes.append(process)
    seconds = []
    for process in processes:
        assert process.stdout is not None
        seconds.append(float(process.stdout.read().split()[-1]))
        process.wait()
    return max(seconds)


def at_rest(folder: Path, seconds: float) -> None:
    environment = {**os.environ, "EATNAS_HOME": str(folder)}
    command = [sys.executable, "-m", "eatnas_cli"]
    subprocess.run([*command, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
    daemon = subprocess.Popen(
        [*command, "daemon", "start", "--foreground", "--slots", "1"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(20)  # until everything is loaded
        process = psutil.Process(daemon.pid)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        resident = process.memory_info().rss / 1e6
        print(f"supervisor at rest: {resident:.0f} MB resident, {100 * spent / seconds:.2f}% of a core")
    finally:
        daemon.terminate()
        daemon.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=12, help="such that a candidate takes at least 3 s")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rest", type=float, default=30.0, metavar="SECONDS")
    asked = parser.parse_args()
    slots = os.cpu_count() or 1
    ratios, gaps, shares = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for pair in range(asked.pairs):
            settings = new_home(folder / str(pair), asked.candidates, asked.epochs)
            ours, found, assigned = supervised(settings, slots)
            plain = bare(assigned, slots, folder / f"bare-{pair}")
            with read_transaction(open_record(settings.database_url)) as connection:
                used = get_utilisation(connection, 1, time.time())
                count = len(connection.execute(select(candidate.c.id)).all())
            assert len(assigned) == count, (len(assigned), count)
            ratios.append(plain / ours)
            gaps += found
            assert used.training is not None
            shares.append(used.training)
            print(
                f"  pair {pair}: supervised {ours:.1f} s, bare {plain:.1f} s, {ours * slots / count:.1f} s a candidate"
            )
        print(
            f"candidates a minute against bare loops: {100 * statistics.median(ratios):.1f}% "
            f"(median of {asked.pairs} pairs, {slots} slots, {asked.candidates} candidates)"
        )
        print(
            f"inside training steps, by the record: {100 * statistics.median(shares):.1f}% of the time "
            f"from the first candidate's start to the last one's end"
        )
        print(
            f"gap on a warm worker: median {1000 * statistics.median(gaps):.1f} ms, "
            f"largest {1000 * max(gaps):.1f} ms, of {len(gaps)}"
        )
        at_rest(folder / "rest", asked.rest)


if __name__ == "__main__":
    main()
