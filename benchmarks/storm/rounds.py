"""Run rounds: a round is one search with one seed, and a queue of faults."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from storm.faults import FAULTS, ORPHAN_SECONDS
from storm.invariants import SearchCheck, check_search
from storm.processes import TIMEOUT_SECONDS, eventually
from storm.results import Line, ResultsFile
from storm.searches import StormSearch, undisturbed_fingerprint
from storm.storm import Storm

SEARCH_SECONDS = 600.0
"""The seconds that a search may take after its last fault."""
MAX_ROUNDS_WITHOUT_HIT = 5


@dataclass(frozen=True)
class StormPlan:
    """The settings of a storm; `wanted` is the required number of hits of each fault."""

    wanted: dict[str, int]
    search: StormSearch
    seed: int
    seconds_per_epoch: str
    """The seconds that the simulated worker takes for an epoch."""


def run_storm(folder: Path, plan: StormPlan, results: ResultsFile) -> None:
    """Run rounds until every fault has hit often enough, or several rounds had no hit. Only finished rounds count.

    The fault `disk_full` strikes in every other round, on a small disk, if this machine permits mounts.
    """
    workload = plan.search.workload
    number = results.next_round(workload.name)
    without_hit = 0
    while (queue := results.remaining(plan.wanted, workload.name)) and without_hit < MAX_ROUNDS_WITHOUT_HIT:
        with _small_disk(folder / f"disk-{workload.name}-{number}", workload.disk_megabytes) as disk:
            on_disk = disk is not None and number % 2 == 1
            home = disk if disk is not None and on_disk else folder / f"plain-{workload.name}-{number}"
            if not on_disk:
                queue = [fault for fault in queue if fault != "disk_full"]
            if not queue and disk is None:
                print("disk_full is skipped: no disk can be mounted here", flush=True)
                return
            if queue:
                lines = _run_round(home / "home", number, plan, queue)
                results.append_round(lines)
                without_hit = 0 if lines[-1]["hits"] else without_hit + 1
                shutil.rmtree(home, ignore_errors=True)
        number += 1


def _run_round(home: Path, number: int, plan: StormPlan, queue: list[str]) -> list[Line]:
    """Run one search through the faults of the queue, in random order. Return the lines of this round."""
    random.Random(plan.seed * 1000 + number).shuffle(queue)
    workload = plan.search.workload
    # Every round with real trainings has the same seed, because the undisturbed search takes minutes and runs only
    # once.
    seed = plan.seed + number if workload.simulated else plan.seed
    lines: list[Line] = []

    def note(line: Line) -> None:
        lines.append({"round": number, "workload": workload.name, **line})
        print(json.dumps(lines[-1]), flush=True)

    check = _run_search(home, seed, plan, queue, note)
    note({"seed": seed, "hits": sum(line["hit"] for line in lines), **asdict(check)})
    return lines


def _run_search(home: Path, seed: int, plan: StormPlan, queue: list[str], note: Callable[[Line], None]) -> SearchCheck:
    settings = plan.search.new_home(home, seed)
    expected = undisturbed_fingerprint(home.parents[1], seed, plan.search)
    program = plan.search.workload.worker_program(plan.seconds_per_epoch)
    storm = Storm(settings, program, random.Random(seed), plan.search.lanes)
    try:
        while queue and not storm.daemon.ended:
            fault = queue.pop()
            observation = FAULTS[fault](storm)
            if observation is not None:
                note({"fault": fault, **asdict(observation)})
        storm.daemon.wait_for(lambda state: state.finished, SEARCH_SECONDS)
        if not storm.daemon.state.finished:
            errors = (settings.home / "daemon.err").read_text(errors="replace")
            problems = [f"the daemon ended: {errors[-2000:]}"]
            return SearchCheck(lost=1, doubled=0, differing=0, problems=problems)
        storm.daemon.process.wait(TIMEOUT_SECONDS)
        eventually(lambda: not storm.workers_left(), ORPHAN_SECONDS)
        return check_search(storm, expected)
    finally:
        storm.close()


@contextlib.contextmanager
def _small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """Mount a disk of this size and yield its folder, or None if this machine permits no mounts."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "eatnas-storm", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
