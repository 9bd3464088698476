"""Measure searches with simulated workers: the start of a daemon, the throughput, and the fingerprint after kills."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt
from eatnas_db.settings import Settings
from scaling.bare_driver import bare_connection, execute_again, recorded_statements
from scaling.candidates import new_record
from scaling.measurements import Scale
from scaling.served_host import BENCHMARKS, SIMULATED_WORKER
from scaling.synthetic_histories import SPARE_CANDIDATES

THROUGHPUT_SLOTS = 8
THROUGHPUT_LAG = 16
KILL_SECONDS = 2.0


def measure_start(scale: Scale) -> None:
    """Measure the time from the start of a daemon to its first lease, with a long history and without a history."""
    size = scale.sizes[-1]
    for kind in scale.kinds:
        long = scale.histories.copy(kind, size, "start")
        with tempfile.TemporaryDirectory() as folder:
            file = f"sqlite:///{folder}/empty.db"
            empty = file if kind == "sqlite" else scale.histories.server.create("start_empty")
            new_record(empty, 1000 + SPARE_CANDIDATES).dispose()
            seconds: dict[str, list[float]] = {long: [], empty: []}
            for _ in range(max(3, scale.pairs // 50)):
                for url, times in seconds.items():
                    started = time.perf_counter()
                    host = start_host(url, Path(folder), "here", 1, "0", "--until-first-lease")
                    if status := host.wait():
                        raise SystemExit(f"the host exited with status {status}")
                    times.append(time.perf_counter() - started)
            scale.append(
                "start",
                database=kind,
                history=size,
                long_s=statistics.median(seconds[long]),
                empty_s=statistics.median(seconds[empty]),
                more_s=statistics.median(a - b for a, b in zip(seconds[long], seconds[empty], strict=True)),
                pairs=len(seconds[long]),
            )
        scale.histories.drop(kind, size, "start")


def measure_throughput(scale: Scale) -> None:
    """Compare the throughput of a search with eight workers on PostgreSQL and of its statements in the bare driver."""
    count = scale.pairs
    with (
        scale.fresh_databases("postgresql", "through", 2, candidates=count) as (url, bare_url),
        tempfile.TemporaryDirectory() as folder,
    ):
        for address in (url, bare_url):
            engine = open_record(address)
            with transaction(engine) as connection:
                connection.execute(search.update().values(lag=THROUGHPUT_LAG))
            engine.dispose()
        engine, settings = open_record(url), Settings(Path(folder), url, "here")
        with recorded_statements(engine, commits=True) as statements:
            launcher = Launcher(settings.logs, SIMULATED_WORKER)
            Supervisor(engine, settings, launcher, slots=THROUGHPUT_SLOTS, host_name="here", only="b").run()
        with read_transaction(engine) as connection:
            started_at, ended_at, attempts, trained = connection.execute(
                select(
                    func.min(attempt.c.started_at),
                    func.max(attempt.c.ended_at),
                    func.count(),
                    func.count(attempt.c.candidate_id.distinct()),
                )
            ).one()
        assert attempts == trained == count, (attempts, trained)
        bare_engine = open_record(bare_url)
        with bare_connection(bare_engine) as bare:
            started = time.perf_counter()
            execute_again(bare, statements)
            bare_seconds = time.perf_counter() - started
        seconds = ended_at - started_at
        scale.append(
            "throughput",
            database="postgresql",
            candidates=count,
            a_second=count / seconds,
            bare_a_second=count / bare_seconds,
            share=bare_seconds / seconds,
            statements=len(statements),
        )
        engine.dispose()
        bare_engine.dispose()


def compare_fingerprints(scale: Scale) -> None:
    """Compare the fingerprints of a calm search on SQLite and of a search on PostgreSQL whose hosts are killed."""
    count = scale.pairs
    with (
        scale.fresh_databases("sqlite", "calm", 1, candidates=count) as (url,),
        tempfile.TemporaryDirectory() as folder,
    ):
        run_hosts(url, Path(folder), ["one"], slots=1, kill_seconds=None)
        undisturbed = _read_fingerprint(url)
    with (
        scale.fresh_databases("postgresql", "storm", 1, candidates=count) as (url,),
        tempfile.TemporaryDirectory() as folder,
    ):
        kills = run_hosts(url, Path(folder), ["a", "b", "c", "d"], slots=2, kill_seconds=KILL_SECONDS)
        disturbed = _read_fingerprint(url)
    scale.append(
        "fingerprint",
        candidates=count,
        kills=kills,
        sqlite=undisturbed[:16],
        postgresql=disturbed[:16],
        equal=undisturbed == disturbed,
    )


def start_host(
    url: str, home: Path, name: str, slots: int, seconds_per_epoch: str, *options: str
) -> subprocess.Popen[bytes]:
    arguments = [url, str(home), name, str(slots), seconds_per_epoch, *options]
    return subprocess.Popen([sys.executable, "-m", "scaling.served_host", *arguments], cwd=BENCHMARKS)


def run_hosts(url: str, home: Path, names: Sequence[str], *, slots: int, kill_seconds: float | None) -> int:
    """Run hosts until the search ends; kill and restart a host every `kill_seconds`. Return the number of kills."""
    hosts = {name: start_host(url, home, name, slots, "0.05") for name in names}
    kills, rng = 0, random.Random(7)
    next_kill_at = None if kill_seconds is None else time.monotonic() + 3 * kill_seconds
    while hosts:
        time.sleep(0.1)
        for name, host in list(hosts.items()):
            if (status := host.poll()) is not None:
                assert status == 0, status
                del hosts[name]
        if next_kill_at is not None and hosts and time.monotonic() > next_kill_at:
            name = rng.choice(sorted(hosts))
            hosts[name].kill()
            hosts[name].wait()
            kills += 1
            hosts[name] = start_host(url, home, name, slots, "0.05")
            next_kill_at = time.monotonic() + (kill_seconds or 0)
    return kills


def _read_fingerprint(url: str) -> str:
    with read_transaction(open_record(url)) as connection:
        return get_fingerprint(connection, 1).sha256
