"""A candidate's whole bookkeeping through the real code, beside the same statements through the bare driver.

Three copies of each record: the real code runs on the first while its statements are written down; then the
real code on the second and the written statements, by sqlite3 alone, on the third take turns, candidate by
candidate, and the histories take turns too. One commit each: lease, 5 epochs, checkpoint, score, settle,
tournament, birth and events. A commit's wait for the disk is told apart, since it is the same for both and
varies more than all the rest.
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
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, insert

from eatnas_db import provenance, training_record, transitions
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from eatnas_migrations import commands

MEASURED = 300
UNDER = provenance.Provenance("p", {}, "data", {}, "cpu", "none")
TREE = {"name": "b", "space": "eatnas-tiny", "data": {"name": "digits"}}


def new_record(file: Path, candidates: int) -> Engine:
    url = f"sqlite:///{file}"
    commands.upgrade(create_engine_for(url))
    engine = open_record(url)
    with transaction(engine) as connection:
        connection.execute(insert(host).values(id=1, name="here", seen_at=0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=0))
        spec = parse_spec(TREE, {"budget.candidates": candidates, "evolution.lag": 4})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="data", slots=2, now=0.0)
    return engine


def one_candidate(connection: Any) -> None:
    leased = transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=1.0)
    assert leased is not None
    token = leased.token
    fitness = (token.candidate * 7919 % 1000) / 1000
    epochs = [training_record.EpochRecord(number, 1.0, fitness, 1.0, fitness, 0.1, 1.0, 1.0) for number in range(5)]
    training_record.record_epochs(connection, token, epochs, 1.0)
    path = f"c{token.candidate}.ckpt"
    report = training_record.CheckpointRecord(path, "0" * 64, 100_000, 5, 0)
    training_record.record_checkpoint(connection, token, report, 1.0)
    transitions.record_score(
        connection,
        token,
        fitness=fitness,
        metrics={"val_accuracy": fitness, "val_loss": 1.0},
        seed=7,
        provenance=UNDER,
        device_seconds=1.0,
        now=1.0,
    )
    advance_search(connection, lock_search(connection, 1), 1.0)


def fill(engine: Engine, count: int) -> None:
    for start in range(0, count, 1000):
        with transaction(engine) as connection:
            for _ in range(min(1000, count - start)):
                one_candidate(connection)
            drop_unneeded_checkpoints(connection, lock_search(connection, 1))


def written_down(engine: Engine) -> list[list[tuple[str, Any, bool]]]:
    """The statements of each candidate: text, parameters, and whether for many rows at once."""
    scripts: list[list[tuple[str, Any, bool]]] = []

    def write(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        scripts[-1].append((statement, parameters, many))

    event.listen(engine, "before_cursor_execute", write)
    for _ in range(MEASURED):
        scripts.append([])
        with transaction(engine) as connection:
            one_candidate(connection)
    event.remove(engine, "before_cursor_execute", write)
    return scripts


def replay(connection: Any, script: list[tuple[str, Any, bool]]) -> None:
    """Execute statements by a bare driver's connection, and fetch what they answer."""
    cursor = connection.cursor()
    for statement, parameters, many in script:
        if many:
            cursor.executemany(statement, parameters)
        else:
            cursor.execute(statement, parameters)
            if cursor.description is not None:
                cursor.fetchall()


class History:
    """One record of so many candidates, thrice, and the seconds that were taken on it."""

    def __init__(self, candidates: int, folder: Path) -> None:
        self.candidates = candidates
        first, second, third = (folder / f"{candidates}-{name}.db" for name in "abc")
        engine = new_record(first, candidates + MEASURED + 100)
        fill(engine, candidates)
        with sqlite3.connect(first) as checkpointing:
            checkpointing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
        shutil.copy(first, second)
        shutil.copy(first, third)
        self.scripts = written_down(open_record(f"sqlite:///{first}"))
        self.engine = open_record(f"sqlite:///{second}")
        self.bare = sqlite3.connect(third, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self.bare.execute(f"PRAGMA {pragma}")
        self.real: list[float] = []
        self.plain: list[float] = []
        self.commits: list[float] = []

    def measure(self, number: int) -> None:
        """One candidate by the real code, then the same by the bare driver."""
        started = time.perf_counter()
        with transaction(self.engine) as connection:
            one_candidate(connection)
        between = time.perf_counter()
        replay(self.bare, self.scripts[number])
        waiting = time.perf_counter()
        self.bare.execute("COMMIT")
        ended = time.perf_counter()
        self.real.append(between - started)
        self.plain.append(ended - between)
        self.commits.append(ended - waiting)

    def tell(self) -> None:
        """Print the medians."""
        ratio = statistics.median(a / b for a, b in zip(self.real, self.plain, strict=True))
        real, plain, commit = (1000 * statistics.median(x) for x in (self.real, self.plain, self.commits))
        statements = statistics.median(map(len, self.scripts))
        print(
            f"  history {self.candidates:>9,}: real {real:.2f} ms, bare {plain:.2f} ms "
            f"(of it {commit:.2f} the commit), ratio {ratio:.2f}; {statements:.0f} statements, 1 commit"
        )


def spin(parent: int) -> None:
    while os.getppid() == parent:
        sum(range(10_000))


def compare(histories: list[int], folder: Path, busy: int) -> None:
    records = [History(history, folder) for history in histories]
    burners = [multiprocessing.Process(target=spin, args=(os.getpid(),)) for _ in range(busy)]
    for burner in burners:
        burner.start()
    for number in range(MEASURED):
        for record in records:
            record.measure(number)
    for burner in burners:
        burner.kill()
    print(f"{busy} cores busy; medians of {MEASURED} pairs")
    for record in records:
        record.tell()
    shortest, longest = records[0], records[-1]
    growth = statistics.median(a / b for a, b in zip(longest.real, shortest.real, strict=True))
    print(f"  {longest.candidates:,} over {shortest.candidates:,}: {growth:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, os.cpu_count() or 1], help="cores kept busy")
    asked = parser.parse_args()
    for busy in asked.busy:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            compare(asked.histories, Path(folder), busy)


if __name__ == "__main__":
    main()
