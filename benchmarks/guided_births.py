"""Measure the cost of a guided birth in a long search: its decision, its transaction, and the supervisor's ticks.

The search has `--births` scored births. First, births are decided and inserted as in a daemon. Then a supervisor trains
some of them with simulated workers, once with the decisions in a thread, and once with the decisions in its
transactions. All figures are processor times of one thread, which other programs hardly affect.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import Engine, text

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from eatnas_daemon.supervision.birth_preparer import BirthPreparer
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.prepared_births import PreparedBirth, prepare_births
from eatnas_db.settings import load_settings
from eatnas_migrations import commands
from support.simulated_worker import SIMULATED_WORKER

LAG = 4
POPULATION = 20


class PreparedNow:
    """Births that were prepared before a transaction."""

    def __init__(self, births: tuple[PreparedBirth, ...]) -> None:
        self._births = {birth.inputs.number: birth for birth in births}

    def take(self, search_id: int, number: int) -> PreparedBirth | None:
        """Return the prepared birth with this number."""
        return self._births.get(number)

    def discard(self, search_id: int) -> None:
        """Fail, because nothing else writes to this record."""
        raise AssertionError(search_id)


class InTransaction(BirthPreparer):
    """Decides births only when the transaction asks for them, for comparison."""

    def take(self, search_id: int, number: int) -> PreparedBirth | None:
        """Decide a birth."""
        return next((birth for birth in prepare_births(self._engine, search_id) if birth.inputs.number == number), None)


def build(url: str, births: int) -> Engine:
    """Return a record with a search of many scored births, whose next births are guided."""
    commands.upgrade(create_engine_for(url))
    engine = open_record(url)
    spec = {
        "name": "s",
        "seed": 1,
        "space": "eatnas-small",
        "data": {"name": "digits"},
        "training": {"epochs": 2},
        "evolution": {"population": births, "tournament": 2, "lag": LAG},
        "budget": {"candidates": births + 10_000},
        "reevaluation": {"top": 0},
    }
    with transaction(engine) as connection:
        create_search(
            connection, parse_spec(spec, {}), task=Task(28, 1, 10), data_digest="arithmetic", slots=2, now=0.0
        )
        scored = "state = 'scored', fitness = 0.5 + mult_adds * 1e-9 + (params % 97) * 1e-6, accuracy = 0.5"
        connection.execute(text(f"UPDATE eatnas_candidate SET {scored}, joined = birth + 1"))
        gone = f'UPDATE eatnas_candidate SET "left" = birth + 1 + {POPULATION} WHERE birth < {births - POPULATION}'
        connection.execute(text(gone))
        guided = "spec = json_set(spec, '$.evolution.births', 'guided')"
        connection.execute(
            text(f"UPDATE eatnas_search SET settled = {births}, scored = {births}, population = {POPULATION}, {guided}")
        )
    return engine


def measure_births(engine: Engine, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds per birth of each decision, and of each transaction that inserts the births."""
    deciding, inserting = [], []
    for _ in range(count):
        started = time.thread_time()
        births = prepare_births(engine, 1)
        deciding.append((time.thread_time() - started) / len(births))
        with transaction(engine) as connection:
            started = time.thread_time()
            advance_search(connection, lock_search(connection, 1), 3.0, PreparedNow(births))
            inserting.append((time.thread_time() - started) / len(births))
            scored = "UPDATE eatnas_candidate SET state = 'scored', fitness = 0.5 WHERE state = 'pending'"
            connection.execute(text(scored))
            connection.execute(text("UPDATE eatnas_search SET settled = born, scored = born"))
    return deciding, inserting


def measure_ticks(engine: Engine, home: Path, preparer: type[BirthPreparer], seconds: float) -> tuple[list[float], int]:
    """Return the processor seconds of each tick of a supervisor, and the number of births that it settled."""
    settings = load_settings({}, str(home))
    launcher = Launcher(settings.logs, (*SIMULATED_WORKER, "--seconds-per-epoch", "0.05"))
    supervisor = Supervisor(engine, settings, launcher, slots=2, host_name="here", only="s")
    supervisor._births = supervisor._recorder._dispatcher._births = preparer(engine, supervisor._selector)
    before = _settled(engine)
    durations: list[float] = []
    end = time.monotonic() + seconds
    tick = supervisor.tick

    def timed_tick() -> None:
        started = time.thread_time()
        tick()
        durations.append(time.thread_time() - started)
        if time.monotonic() > end:
            supervisor.stop()

    supervisor.tick = timed_tick  # type: ignore[method-assign]
    supervisor.run()
    return durations, _settled(engine) - before


def _settled(engine: Engine) -> int:
    with transaction(engine) as connection:
        return lock_search(connection, 1).settled


def describe(name: str, seconds: list[float]) -> str:
    """Return a line with the median, the 95th percentile and the maximum of some durations."""
    ordered = sorted(1000 * value for value in seconds)
    return (
        f"{name}: median {statistics.median(ordered):.1f} ms, 95% below {ordered[int(0.95 * len(ordered))]:.1f} ms, "
        f"longest {ordered[-1]:.1f} ms ({len(ordered)})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--births", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=15, help="number of transactions to measure; default: 15")
    parser.add_argument("--seconds", type=float, default=20, help="seconds of each run of the supervisor; default: 20")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        engine = build(load_settings({}, folder).database_url, options.births)
        deciding, inserting = measure_births(engine, options.count)
        print(describe("decision of a birth", deciding))
        print(describe("insertion of a birth in the transaction", inserting))
        for name, preparer in (("in a thread", BirthPreparer), ("in the transaction", InTransaction)):
            durations, settled = measure_ticks(engine, home, preparer, options.seconds)
            print(describe(f"tick, decisions {name}", durations) + f", {settled} births")


if __name__ == "__main__":
    main()
