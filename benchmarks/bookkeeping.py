"""A candidate's whole bookkeeping through the real code, beside the same statements through the bare driver.

Three copies of one record: the real code runs on the first while its statements are written down; then the
real code on the second and the written statements, by sqlite3 alone, on the third take turns, candidate by
candidate. One commit each: lease, 5 epochs, checkpoint, score, settle, tournament, birth and events.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, insert

from eatnas_db import steps, transitions
from eatnas_db.database import create_engine_for, open_record, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.messages import Checkpointed, EpochDone
from eatnas_db.domain.spec import parse_spec
from eatnas_db.schema import device, host, worker
from eatnas_migrations import commands

MEASURED = 300
UNDER = transitions.Provenance("p", {}, "data", {}, "cpu", "none")
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
        steps.create_search(connection, spec, task=Task(8, 1, 10), data_digest="data", slots=2, now=0.0)
    return engine


def one_candidate(connection: Any) -> None:
    leased = transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=1.0)
    assert leased is not None
    token = leased.token
    fitness = (token.candidate * 7919 % 1000) / 1000
    epochs = [EpochDone(token.candidate, 1, number, 1.0, fitness, 1.0, fitness, 0.1, 1.0, 1.0) for number in range(5)]
    transitions.record_epochs(connection, token, epochs, 1.0)
    path = f"c{token.candidate}.ckpt"
    report = Checkpointed(token.candidate, 1, path, "0" * 64, 100_000, 5, 0)
    transitions.record_checkpoint(connection, token, report, 1.0)
    transitions.record_score(
        connection,
        token,
        fitness=fitness,
        metrics={"val_accuracy": fitness, "val_loss": 1.0},
        seed=7,
        circumstances=UNDER,
        device_seconds=1.0,
        now=1.0,
    )
    steps.advance(connection, steps.get_row(connection, 1), 1.0)


def fill(engine: Engine, count: int) -> None:
    for start in range(0, count, 1000):
        with transaction(engine) as connection:
            for _ in range(min(1000, count - start)):
                one_candidate(connection)


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


def replay(connection: sqlite3.Connection, script: list[tuple[str, Any, bool]]) -> None:
    for statement, parameters, many in script:
        if many:
            connection.executemany(statement, parameters)
        else:
            cursor = connection.execute(statement, parameters)
            cursor.fetchall()
    connection.execute("COMMIT")


def compare(history: int, folder: Path) -> float:
    first = folder / f"{history}-a.db"
    engine = new_record(first, history + MEASURED + 100)
    fill(engine, history)
    with sqlite3.connect(first) as checkpointing:
        checkpointing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    second, third = folder / f"{history}-b.db", folder / f"{history}-c.db"
    shutil.copy(first, second)
    shutil.copy(first, third)
    scripts = written_down(open_record(f"sqlite:///{first}"))
    real_engine = open_record(f"sqlite:///{second}")
    bare = sqlite3.connect(third, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        bare.execute(f"PRAGMA {pragma}")
    real, plain = [], []
    for script in scripts:
        started = time.perf_counter()
        with transaction(real_engine) as connection:
            one_candidate(connection)
        between = time.perf_counter()
        replay(bare, script)
        real.append(between - started)
        plain.append(time.perf_counter() - between)
    ratio = statistics.median(a / b for a, b in zip(real, plain, strict=True))
    milliseconds = [1000 * statistics.median(values) for values in (real, plain)]
    statements = statistics.median(map(len, scripts))
    print(f"history {history:>7,}: real {milliseconds[0]:.2f} ms, bare {milliseconds[1]:.2f} ms, ratio {ratio:.2f}")
    print(f"    medians of {MEASURED} pairs; {statements:.0f} statements in 1 commit")
    return statistics.median(real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, nargs="+", default=[1_000, 20_000])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = [compare(history, Path(folder)) for history in asked.histories]
    print(f"longest history over shortest: {times[-1] / times[0]:.2f}")


if __name__ == "__main__":
    main()
