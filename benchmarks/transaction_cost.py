"""Compare the database work for a candidate with the same statements run by sqlite3 alone.

The program makes three copies of each record. It runs the real code on the first copy and records the statements. Then,
for each candidate, it runs the real code on the second copy and the recorded statements on the third copy. Both write
the lease, five epochs, the checkpoint, the score, the settlement, the tournament, the birth and the events in one
commit. The time of the commit is also printed separately, because the disk determines it, and it varies more than the
rest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from scaling.bare_driver import Statement, execute_again, open_sqlite, recorded_statements
from scaling.candidates import new_record, run_candidate
from scaling.write_costs import median_ratio

SPARE_CANDIDATES = 100
BATCH_CANDIDATES = 1000


class TimedRecord:
    """Three copies of a record with `candidates` scored candidates, and the seconds of each measurement."""

    def __init__(self, candidates: int, measured: int, folder: Path) -> None:
        self.candidates = candidates
        first, second, third = (folder / f"{candidates}-{name}.db" for name in ("recorded", "real", "bare"))
        engine = new_record(f"sqlite:///{first}", candidates + measured + SPARE_CANDIDATES)
        _fill(engine, candidates)
        with sqlite3.connect(first) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
        shutil.copy(first, second)
        shutil.copy(first, third)
        self._scripts = _record_candidates(open_record(f"sqlite:///{first}"), measured)
        self._engine = open_record(f"sqlite:///{second}")
        self._bare = open_sqlite(str(third))
        self.real: list[float] = []
        self._bare_seconds: list[float] = []
        self._commit_seconds: list[float] = []

    def measure(self, number: int) -> None:
        """Write one candidate with the real code, then with the bare driver."""
        started = time.perf_counter()
        with transaction(self._engine) as connection:
            run_candidate(connection)
        bare_started = time.perf_counter()
        execute_again(self._bare, self._scripts[number])
        commit_started = time.perf_counter()
        self._bare.execute("COMMIT")
        ended = time.perf_counter()
        self.real.append(bare_started - started)
        self._bare_seconds.append(ended - bare_started)
        self._commit_seconds.append(ended - commit_started)

    def print_medians(self) -> None:
        """Print the medians of the measurements."""
        ratio = median_ratio(self.real, self._bare_seconds)
        columns = (self.real, self._bare_seconds, self._commit_seconds)
        real, bare, commit = (1000 * statistics.median(column) for column in columns)
        statements = statistics.median(map(len, self._scripts))
        print(
            f"  history {self.candidates:>9,}: real {real:.2f} ms, bare {bare:.2f} ms "
            f"(of that {commit:.2f} ms commit), ratio {ratio:.2f}; {statements:.0f} statements, 1 commit"
        )


def _fill(engine: Engine, count: int) -> None:
    for start in range(0, count, BATCH_CANDIDATES):
        with transaction(engine) as connection:
            for _ in range(min(BATCH_CANDIDATES, count - start)):
                run_candidate(connection)
            drop_unneeded_checkpoints(connection)


def _record_candidates(engine: Engine, count: int) -> list[list[Statement]]:
    """Write candidates and return the statements of each."""
    scripts = []
    for _ in range(count):
        with recorded_statements(engine) as statements, transaction(engine) as connection:
            run_candidate(connection)
        scripts.append(statements)
    return scripts


def _keep_core_busy(parent: int) -> None:
    while os.getppid() == parent:
        sum(range(10_000))


def compare(histories: Sequence[int], measured: int, folder: Path, busy_cores: int) -> None:
    """Measure all records in turns while `busy_cores` other processes compute, and print the medians."""
    records = [TimedRecord(history, measured, folder) for history in histories]
    others = [multiprocessing.Process(target=_keep_core_busy, args=(os.getpid(),)) for _ in range(busy_cores)]
    for other in others:
        other.start()
    for number in range(measured):
        for record in records:
            record.measure(number)
    for other in others:
        other.kill()
    print(f"{busy_cores} cores busy; medians of {measured} pairs")
    for record in records:
        record.print_medians()
    growth = median_ratio(records[-1].real, records[0].real)
    print(f"  {records[-1].candidates:,} relative to {records[0].candidates:,}: {growth:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--histories",
        type=int,
        nargs="+",
        default=[1_000, 100_000],
        help="numbers of candidates in the records to compare",
    )
    parser.add_argument("--pairs", type=int, default=300, help="number of candidates to measure")
    parser.add_argument(
        "--busy",
        type=int,
        nargs="+",
        default=[0, os.cpu_count() or 1],
        help="numbers of cores to keep busy with other processes, one run for each; default: 0, and all cores",
    )
    options = parser.parse_args()
    for busy_cores in options.busy:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            compare(options.histories, options.pairs, Path(folder), busy_cores)


if __name__ == "__main__":
    main()
