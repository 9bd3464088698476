"""Measure bulk work on SQLite and PostgreSQL: the creation and cancellation of a large search, and ticks of the daemon.

It prints a JSON row for each measurement. `--write FILE` also writes the rows to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import DEFAULT_TIMEOUTS
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import SearchSpec, parse_spec
from eatnas_db.domain.states import DesiredState
from eatnas_db.searches.control import set_desired_state
from eatnas_db.searches.create import create_search
from eatnas_db.settings import load_settings
from eatnas_migrations import commands
from scaling.postgres_server import PostgresServer

BIRTHS: Final = 10_000
OPEN_SEARCHES: Final = 2_000
TICKS: Final = 20


def measure_bulk(engine: Engine, births: int) -> Iterator[dict[str, Any]]:
    """Measure the creation and the cancellation of a search with an initial population of `births` candidates."""

    def create() -> None:
        spec = _spec("many", population=births)
        with transaction(engine) as connection:
            create_search(connection, spec, task=Task(8, 1, 10), data_digest="d", slots=2, now=0.0)

    def cancel() -> None:
        with transaction(engine) as connection:
            set_desired_state(connection, "many", DesiredState.CANCELLED, 1.0)

    yield {"what": "create", "births": births, **_measure(engine, create)}
    yield {"what": "cancel", "births": births, **_measure(engine, cancel)}


def measure_ticks(engine: Engine, home: Path, searches: int) -> Iterator[dict[str, Any]]:
    """Measure a tick without open searches, then with `searches` open searches that have nothing to do."""
    timeouts = replace(DEFAULT_TIMEOUTS, database=0.0, checkpoint_cleanup=0.0)
    settings = replace(load_settings({}, str(home)), database_url=str(engine.url))
    supervisor = Supervisor(
        engine, settings, Launcher(home / "logs"), slots=0, host_name="benchmark", timeouts=timeouts
    )

    def tick() -> None:
        for _ in range(TICKS):
            supervisor.tick()

    for open_searches in (0, searches):
        with transaction(engine) as connection:
            for number in range(open_searches):
                spec = _spec(f"open{number}", population=2)
                create_search(connection, spec, task=Task(8, 1, 10), data_digest="d", slots=2, now=0.0)
        measured = _measure(engine, tick)
        yield {
            "what": "tick",
            "open_searches": open_searches,
            **{key: round(value / TICKS, 4) for key, value in measured.items()},
        }


def _spec(name: str, population: int) -> SearchSpec:
    return parse_spec(
        {
            "name": name,
            "seed": 1,
            "space": "eatnas-tiny",
            "data": {"name": "digits"},
            "evolution": {"population": population, "tournament": 2, "lag": 2},
            "budget": {"candidates": population},
        }
    )


def _measure(engine: Engine, function: Callable[[], None]) -> dict[str, float]:
    """Call a function; return its wall-clock seconds, its processor seconds and its number of SQL statements."""
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(engine, "before_cursor_execute", count)
    started, processor = time.perf_counter(), time.process_time()
    function()
    measured = {
        "seconds": round(time.perf_counter() - started, 3),
        "processor_seconds": round(time.process_time() - processor, 3),
        "statements": statements,
    }
    event.remove(engine, "before_cursor_execute", count)
    return measured


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--births", type=int, default=BIRTHS)
    parser.add_argument("--searches", type=int, default=OPEN_SEARCHES)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="eatnas-bulk-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        home.mkdir()
        server = PostgresServer(Path(folder) / "server")
        for database, url in (("sqlite", f"sqlite:///{home / 'eatnas.db'}"), ("postgresql", server.create("bulk"))):
            commands.upgrade(create_engine_for(url))
            engine = open_record(url)
            for row in (*measure_bulk(engine, options.births), *measure_ticks(engine, home, options.searches)):
                rows.append({"database": database, **row, "load_per_core": _load_per_core()})
                print(json.dumps(rows[-1]), flush=True)
            engine.dispose()
        server.close()
    if options.write is not None:
        options.write.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _load_per_core() -> float:
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)


if __name__ == "__main__":
    main()
