"""A million candidates: what the record costs when it is long, on SQLite and PostgreSQL, beside the bare drivers.

Each figure is a sub-command of its own, appends a line of JSON to the results, and is compared with its aim there;
`all` takes those that are missing. Pairs take turns, so that a busy machine disturbs both sides alike. The histories
are made once (`fill`) and kept in a folder. `optuna` needs `pip install optuna`; `plot` draws what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, func, select
from synthetic_histories import Histories, check, new_record
from transaction_cost import one_candidate, replay

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db import transitions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.pareto import list_front
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.ranking import list_best
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.advance import breed_births
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from eatnas_db.settings import Settings

KINDS = ("sqlite", "postgresql")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SIMULATED_WORKER = (str(Path(__file__).parents[1] / "tests" / "support" / "simulated_worker.py"),)
HOST = f"""
import sys
from pathlib import Path
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.slots import Timeouts
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.settings import Settings
url, home, name, slots, seconds, first = sys.argv[1:]
settings = Settings(Path(home), url, name)
program = (*{SIMULATED_WORKER!r}, "--seconds-per-epoch", seconds, "--scramble")
def look(supervisor):
    if first == "first" and any(slot.work for slot in supervisor.slots):
        print("leased", flush=True)
        sys.exit()
patience = Timeouts(rest=0.05, flush=0.2, lease=3.0)
Supervisor(open_record(url, busy_seconds=10), settings, Launcher(settings.logs / name, program), slots=int(slots),
           host_name=name, only="b", patience=patience).run(look)
"""


class Scale:
    """The histories, and the file that every result is appended to."""

    def __init__(self, folder: Path, results: Path, sizes: tuple[int, ...], kinds: tuple[str, ...], pairs: int) -> None:
        self.histories = Histories(folder)
        self.results, self.sizes, self.kinds, self.pairs = results, sizes, kinds, pairs

    def found(self) -> list[dict[str, Any]]:
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        return [json.loads(line) for line in lines]

    def tell(self, figure: str, **values: Any) -> None:
        """Append a result, with how busy the machine was."""
        load = round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)
        line = {"figure": figure, **{k: _rounded(v) for k, v in values.items()}, "load_per_core": load}
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def fill(self) -> None:
        """Make what histories are missing."""
        check()
        for kind in self.kinds:
            for size in self.sizes:
                self.histories.url(kind, size)

    def bookkeeping(self) -> None:
        """A candidate's whole bookkeeping beside the same statements through the bare driver."""
        for kind in self.kinds:
            pairs = [Pair(self.histories, kind, size) for size in self.sizes]
            for number in range(self.pairs + 20):
                for pair in pairs:
                    pair.measure(warm=number < 20)
            for pair in pairs:
                self.tell(
                    "bookkeeping",
                    database=kind,
                    history=pair.size,
                    real_ms=1000 * statistics.median(pair.real),
                    bare_ms=1000 * statistics.median(pair.bare),
                    ratio=statistics.median(a / b for a, b in zip(pair.real, pair.bare, strict=True)),
                    cpu_ratio=statistics.median(a / b for a, b in zip(pair.real_cpu, pair.bare_cpu, strict=True)),
                    real_cpu_ms=1000 * statistics.median(pair.real_cpu),
                    cpu_growth=statistics.median(a / b for a, b in zip(pair.real_cpu, pairs[0].real_cpu, strict=True)),
                    growth=statistics.median(a / b for a, b in zip(pair.real, pairs[0].real, strict=True)),
                    statements=pair.statements,
                    commits=1,
                    pairs=len(pair.real),
                )
                pair.close()

    def queries(self) -> None:
        """The long reads on the longest history, whole and in the database alone."""
        size = self.sizes[-1]
        for kind in self.kinds:
            engine = open_record(self.histories.url(kind, size))
            with read_transaction(engine) as connection:
                youngest = connection.execute(
                    select(candidate.c.id)
                    .where(candidate.c.fitness.is_not(None))
                    .order_by(candidate.c.id.desc())
                    .limit(1)
                ).scalar_one()
            reads: dict[str, Callable[[Any], Any]] = {
                "best": lambda connection: list_best(connection, 1),
                "pareto": lambda connection: list_front(connection, 1),
                "lineage": partial(get_lineage, candidate_id=youngest),
                "quality": lambda connection: list_steps(connection, 1),
            }
            with bare_connection(engine) as bare:
                for name, read in reads.items():
                    whole, alone, rows = [], [], 0
                    for _ in range(4):
                        with read_transaction(engine) as connection, written(engine) as script:
                            started = time.perf_counter()
                            answer = read(connection)
                            whole.append(1000 * (time.perf_counter() - started))
                            rows = len(answer)
                            del answer
                        if name == "lineage":
                            alone.append(bare_lineage(bare, youngest, rows))
                        else:
                            alone.append(sum(in_database(bare, *statement) for statement in script))
                    self.tell(
                        "query",
                        database=kind,
                        history=size,
                        query=name,
                        whole_ms=statistics.median(whole[1:]),
                        in_database_ms=statistics.median(alone[1:]),
                        rows=rows,
                    )
            engine.dispose()

    def start(self) -> None:
        """From a daemon's start to its first lease, with a long history and with none."""
        for kind in self.kinds:
            long = self.histories.copy(kind, self.sizes[-1], "start")
            with tempfile.TemporaryDirectory() as folder:
                empty = f"sqlite:///{folder}/empty.db" if kind == "sqlite" else self.histories.server.new("start_empty")
                new_record(empty, 1000).dispose()
                taken: dict[str, list[float]] = {long: [], empty: []}
                for _ in range(max(3, self.pairs // 50)):
                    for url, seconds in taken.items():
                        arguments = [url, folder, "here", "1", "0", "first"]
                        started = time.perf_counter()
                        subprocess.run([sys.executable, "-c", HOST, *arguments], check=True, stdout=subprocess.DEVNULL)
                        seconds.append(time.perf_counter() - started)
                pairs = list(zip(taken[long], taken[empty], strict=True))
                self.tell(
                    "start",
                    database=kind,
                    history=self.sizes[-1],
                    long_s=statistics.median(taken[long]),
                    empty_s=statistics.median(taken[empty]),
                    more_s=statistics.median(a - b for a, b in pairs),
                    pairs=len(pairs),
                )
            self.histories.drop(kind, self.sizes[-1], "start")

    def lease(self) -> None:
        """Leasing alone, beside its statements and beside its UPDATE alone, by the bare driver."""
        for kind in self.kinds:
            with self._fresh(kind, "lease", 2) as (url, other):
                count = self.pairs
                for address in (url, other):
                    population(address, count)
                engine, taken = open_record(url), open_record(other)
                real, bare, alone = [], [], []
                with bare_connection(taken) as plain:
                    for _ in range(count - 1):
                        with written(engine) as script:
                            started = time.perf_counter()
                            with transaction(engine) as connection:
                                transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=1.0)
                            real.append(time.perf_counter() - started)
                        started = time.perf_counter()
                        replay(plain, script)
                        plain.execute("COMMIT")
                        bare.append(time.perf_counter() - started)
                        (update,) = [one for one in script if one[0].startswith("UPDATE eatnas_candidate")]
                        if kind == "sqlite":
                            plain.execute("BEGIN IMMEDIATE")
                        started = time.perf_counter()
                        plain.execute(*update[:2]).fetchall()
                        plain.execute("SELECT 1")
                        alone.append(time.perf_counter() - started)
                        plain.execute("ROLLBACK")
                self.tell(
                    "lease",
                    database=kind,
                    real_ms=1000 * statistics.median(real),
                    bare_ms=1000 * statistics.median(bare),
                    update_ms=1000 * statistics.median(alone),
                    share=statistics.median(b / a for a, b in zip(real, bare, strict=True)),
                    pairs=len(real),
                )
                engine.dispose()
                taken.dispose()

    def throughput(self) -> None:
        """A search by eight arithmetic workers, beside the statements that its supervisor wrote by the bare driver."""
        count = self.pairs
        with self._fresh("postgresql", "through", 2, candidates=count) as (url, other), home() as folder:
            for address in (url, other):
                engine = open_record(address)
                with transaction(engine) as connection:
                    connection.execute(search.update().values(lag=16))
                engine.dispose()
            engine, settings = open_record(url), Settings(folder, url, "here")
            with written(engine, commits=True) as script:
                launcher = Launcher(settings.logs, SIMULATED_WORKER)
                Supervisor(engine, settings, launcher, slots=8, host_name="here", only="b").run()
            with read_transaction(engine) as connection:
                begun, ended, attempts, trained = connection.execute(
                    select(
                        func.min(attempt.c.started_at),
                        func.max(attempt.c.ended_at),
                        func.count(),
                        func.count(attempt.c.candidate_id.distinct()),
                    )
                ).one()
            assert attempts == trained == count, (attempts, trained)
            taken = open_record(other)
            with bare_connection(taken) as bare:
                started = time.perf_counter()
                replay(bare, script)
                alone = time.perf_counter() - started
            self.tell(
                "throughput",
                database="postgresql",
                candidates=count,
                a_second=count / (ended - begun),
                bare_a_second=count / alone,
                share=alone / (ended - begun),
                statements=len(script),
            )
            engine.dispose()
            taken.dispose()

    def bytes(self) -> None:
        """What a candidate with five epochs takes on the disk, after so many live cycles."""
        for kind in self.kinds:
            with self._fresh(kind, "bytes", 1) as (url,):
                engine = open_record(url)
                empty = size_of(engine)
                cycles = self.pairs * 50
                for number in range(cycles):
                    with transaction(engine) as connection:
                        one_candidate(connection)
                        if number % 50 == 0:
                            drop_unneeded_checkpoints(connection, lock_search(connection, 1))
                grown = size_of(engine)
                self.tell("bytes", database=kind, cycles=cycles, each=(grown - empty) / cycles)
                engine.dispose()

    def fingerprint(self) -> None:
        """SQLite with one slot, and PostgreSQL with four hosts of two slots each that are killed again and again."""
        count = self.pairs
        with self._fresh("sqlite", "calm", 1, candidates=count) as (url,), home() as folder:
            run_hosts(url, folder, ["one"], slots=1, kill_every=None)
            calm = print_of(url)
        with self._fresh("postgresql", "storm", 1, candidates=count) as (url,), home() as folder:
            kills = run_hosts(url, folder, ["a", "b", "c", "d"], slots=2, kill_every=2.0)
            storm = print_of(url)
        self.tell(
            "fingerprint", candidates=count, kills=kills, sqlite=calm[:16], postgresql=storm[:16], equal=calm == storm
        )

    @contextmanager
    def _fresh(self, kind: str, name: str, copies: int, candidates: int | None = None) -> Iterator[list[str]]:
        """Records with nothing but their initial population."""
        with tempfile.TemporaryDirectory(dir=self.histories.folder) as folder:
            urls = []
            for number in range(copies):
                file = f"sqlite:///{folder}/{name}{number}.db"
                urls.append(file if kind == "sqlite" else self.histories.server.new(f"{name}{number}"))
                engine = new_record(urls[-1], 100_000)
                if candidates is not None:
                    with transaction(engine) as connection:
                        spec = connection.execute(select(search.c.spec)).scalar_one()
                        spec["training"]["epochs"] = 5
                        connection.execute(search.update().values(budget_candidates=candidates, spec=spec))
                engine.dispose()
            yield urls
        if kind == "postgresql":
            for number in range(copies):
                self.histories.server.execute(f"DROP DATABASE IF EXISTS {name}{number} WITH (FORCE)")


class Pair:
    """Two copies of one history: on the first the real code lives, on the second the bare driver repeats it."""

    def __init__(self, histories: Histories, kind: str, size: int) -> None:
        self.histories, self.kind, self.size = histories, kind, size
        self.engine = open_record(histories.copy(kind, size, "real"))
        self._other = open_record(histories.copy(kind, size, "bare"))
        self._context = bare_connection(self._other)
        self._bare = self._context.__enter__()
        self.real: list[float] = []
        self.bare: list[float] = []
        self.real_cpu: list[float] = []
        self.bare_cpu: list[float] = []
        self.statements = 0

    def measure(self, *, warm: bool) -> None:
        """One candidate by the real code, then the same by the bare driver."""
        with written(self.engine) as script:
            cpu, started = time.process_time(), time.perf_counter()
            with transaction(self.engine) as connection:
                one_candidate(connection)
            real, real_cpu = time.perf_counter() - started, time.process_time() - cpu
        cpu, started = time.process_time(), time.perf_counter()
        replay(self._bare, script)
        self._bare.execute("COMMIT")
        bare, bare_cpu = time.perf_counter() - started, time.process_time() - cpu
        self.statements = len(script)
        if not warm:
            self.real.append(real)
            self.bare.append(bare)
            self.real_cpu.append(real_cpu)
            self.bare_cpu.append(bare_cpu)

    def close(self) -> None:
        self._context.__exit__(None, None, None)
        self.engine.dispose()
        self._other.dispose()
        for name in ("real", "bare"):
            self.histories.drop(self.kind, self.size, name)


@contextmanager
def written(engine: Engine, *, commits: bool = False) -> Iterator[list[Any]]:
    """The statements that an engine executes meanwhile: text, parameters, and whether for many rows at once."""
    script: list[Any] = []

    def write(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        script.append((statement, parameters, many))

    def end(_connection: Any) -> None:
        script.append(("COMMIT", None, False))

    event.listen(engine, "before_cursor_execute", write)
    if commits:
        event.listen(engine, "commit", end)
    try:
        yield script
    finally:
        event.remove(engine, "before_cursor_execute", write)
        if commits:
            event.remove(engine, "commit", end)


@contextmanager
def bare_connection(engine: Engine) -> Iterator[Any]:
    """The driver's own connection to the same database, with the same settings."""
    if engine.dialect.name == "sqlite":
        connection = sqlite3.connect(str(engine.url.database), isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        yield connection
        connection.close()
        return
    import psycopg

    address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as server:
        yield server


def in_database(bare: Any, statement: str, parameters: Any, _many: bool) -> float:
    """Milliseconds of one read: on a server as it tells itself, on SQLite with fetching, which is one with it."""
    if statement.startswith("BEGIN"):
        return 0.0
    if isinstance(bare, sqlite3.Connection):
        started = time.perf_counter()
        bare.execute(statement, parameters).fetchall()
        return 1000 * (time.perf_counter() - started)
    plan = bare.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {statement}", parameters).fetchall()
    bare.rollback()
    return sum(float(found[1]) for (line,) in plan if (found := re.search(r"Execution Time: ([\d.]+)", line)))


def bare_lineage(bare: Any, youngest: int, depth: int) -> float:
    """Milliseconds for the same rows by one recursive statement."""
    started = time.perf_counter()
    rows = bare.execute(
        "WITH RECURSIVE family(id, parent_id, generation) AS ("
        f"SELECT id, parent_id, 0 FROM eatnas_candidate WHERE id = {youngest} UNION ALL "
        "SELECT c.id, c.parent_id, generation + 1 FROM eatnas_candidate c JOIN family ON c.id = family.parent_id) "
        "SELECT c.id, c.parent_id, generation, c.birth, c.origin, c.state, c.fitness, c.code "
        "FROM family JOIN eatnas_candidate c ON c.id = family.id ORDER BY generation"
    ).fetchall()
    assert len(rows) == depth
    return 1000 * (time.perf_counter() - started)


def population(url: str, count: int) -> None:
    """Let a fresh search have so many pending candidates."""
    engine = open_record(url)
    with transaction(engine) as connection:
        connection.execute(search.update().values(population=count, budget_candidates=count))
        breed_births(connection, 1, 0.0)
    engine.dispose()


def print_of(url: str) -> str:
    with read_transaction(open_record(url)) as connection:
        return get_fingerprint(connection, 1).sha256


@contextmanager
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run_hosts(url: str, folder: Path, names: list[str], *, slots: int, kill_every: float | None) -> int:
    """Supervisors in processes of their own until the search is over; how many were killed and started again."""

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", HOST, url, str(folder), name, str(slots), "0.05", "-"])

    running, kills, chance = {name: start(name) for name in names}, 0, random.Random(7)
    next_kill = None if kill_every is None else time.monotonic() + 3 * kill_every
    while running:
        time.sleep(0.1)
        for name, process in list(running.items()):
            if (status := process.poll()) is not None:
                assert status == 0, status
                del running[name]
        if next_kill is not None and running and time.monotonic() > next_kill:
            name = chance.choice(sorted(running))
            running[name].kill()
            running[name].wait()
            kills += 1
            running[name] = start(name)
            next_kill = time.monotonic() + (kill_every or 0)
    return kills


def size_of(engine: Engine) -> int:
    """Bytes of the database; what the write-ahead log holds is moved into it first."""
    if engine.dialect.name == "sqlite":
        file = str(engine.url.database)
        with sqlite3.connect(file, isolation_level=None) as plain:
            plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(file).stat().st_size
    with read_transaction(engine) as connection:
        return int(connection.execute(select(func.pg_database_size(func.current_database()))).scalar_one())


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


FIGURES = ("bookkeeping", "queries", "start", "lease", "throughput", "fingerprint", "bytes", "optuna")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=("fill", *FIGURES, "plot", "all"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "eatnas-scale")
    parser.add_argument("--results", type=Path, default=Path("docs/performance/results.jsonl"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--databases", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--pairs", type=int, default=200)
    asked = parser.parse_args()
    scale = Scale(asked.folder, asked.results, tuple(asked.sizes), tuple(asked.databases), asked.pairs)
    done = {line["figure"].replace("query", "queries") for line in scale.found()}
    wanted = [one for one in FIGURES if one not in done] if asked.figure == "all" else [asked.figure]
    for figure in wanted:
        if figure == "plot":
            import scale_plots

            scale_plots.plot(scale.found(), asked.results.parent)
        elif figure == "optuna":
            import scale_optuna

            scale_optuna.compare(scale)
        else:
            getattr(scale, figure)()


if __name__ == "__main__":
    main()
