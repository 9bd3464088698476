"""Count the trials that are handed out more than once when eight processes take 300 waiting trials from SQLite.

The rounds alternate between `study.ask` on Optuna's relational storage and the leases of eatnas-db. A trial ends as
soon as it is taken. The program needs `pip install optuna`. It prints a JSON row for each round. `--write FILE` also
appends the rows to a file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import optuna

from eatnas_db import transitions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from scaling.candidates import PROVENANCE, new_record

TRIALS: Final = 300
PROCESSES: Final = 8
STUDY: Final = "waiting"


@dataclass(frozen=True)
class Round:
    """The result of one round."""

    program: str
    trials: int
    processes: int
    handed_out: int
    """The number of times that a process got a trial."""
    handed_out_twice: int
    """The number of trials that two or more processes got."""
    seconds: float
    """The wall-clock time from the start of the processes to the end of the last one."""


def create_study(url: str) -> None:
    """Create an Optuna study with waiting trials."""
    study = optuna.create_study(storage=url, study_name=STUDY)
    for number in range(TRIALS):
        study.enqueue_trial({"x": number / TRIALS})


def take_trials(url: str) -> list[int]:
    """Take waiting trials from the Optuna study until none is left, and return their numbers."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(storage=url, study_name=STUDY, sampler=optuna.samplers.RandomSampler())
    numbers = []
    while (trial := study.ask()).number < TRIALS:
        numbers.append(trial.number)
        try:
            trial.suggest_float("x", 0, 1)
            study.tell(trial, 0.0)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            continue  # another process got this trial, too, and has ended it
    return numbers


def create_candidates(url: str) -> None:
    """Create a record with a search whose initial population is pending."""
    new_record(url, TRIALS, {"evolution.population": TRIALS}).dispose()


def lease_candidates(url: str) -> list[int]:
    """Lease candidates until none is pending, and return their ids."""
    engine = open_record(url)
    ids = []
    while True:
        with transaction(engine) as connection:
            leased = transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=1.0)
        if leased is None:
            break
        ids.append(leased.token.candidate)
        with transaction(engine) as connection:
            transitions.record_score(
                connection,
                leased.token,
                fitness=0.5,
                metrics={"val_accuracy": 0.5, "val_loss": 1.0},
                seed=7,
                provenance=PROVENANCE,
                device_seconds=0.0,
                now=1.0,
            )
    return ids


def run_round(program: str, create: Callable[[str], None], take: Callable[[str], list[int]]) -> Round:
    """Let all processes take the trials of a new database at the same time."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/trials.db"
        create(url)
        started = time.perf_counter()
        with ProcessPoolExecutor(PROCESSES, context) as pool:
            taken = Counter(number for numbers in pool.map(take, [url] * PROCESSES) for number in numbers)
        seconds = time.perf_counter() - started
    if len(taken) != TRIALS:
        raise SystemExit(f"{program}: {len(taken)} of {TRIALS} trials were handed out")
    twice = sum(count > 1 for count in taken.values())
    return Round(program, TRIALS, PROCESSES, taken.total(), twice, round(seconds, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds of each program; default: 5")
    parser.add_argument("--write", type=Path, metavar="FILE", help="file to which the rows are appended")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for _ in range(options.rounds):
        for result in (
            run_round(f"Optuna {optuna.__version__}", create_study, take_trials),
            run_round("eatnas-db", create_candidates, lease_candidates),
        ):
            row = json.dumps(asdict(result))
            print(row, flush=True)
            if options.write:
                with options.write.open("a") as target:
                    target.write(row + "\n")


if __name__ == "__main__":
    main()
