"""Measure the cost of writes: the transaction of a candidate, a lease, and the disk space."""

from __future__ import annotations

import sqlite3
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Engine, func, select

from eatnas_db import transitions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import breed_births
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from scaling.bare_driver import bare_connection, execute_again, recorded_statements
from scaling.candidates import run_candidate
from scaling.measurements import Scale
from scaling.synthetic_histories import SyntheticHistories

WARM_UP_PAIRS = 20
CANDIDATES_PER_PAIR = 50
"""The number of candidates per pair in the measurement of disk space."""


class TransactionPair:
    """Two copies of a history.

    The real code writes to the first copy. The bare driver repeats the statements on the second copy.
    """

    def __init__(self, histories: SyntheticHistories, kind: str, size: int) -> None:
        self._histories, self._kind, self.size = histories, kind, size
        self._engine = open_record(histories.copy(kind, size, "real"))
        self._bare_engine = open_record(histories.copy(kind, size, "bare"))
        self._stack = ExitStack()
        self._bare = self._stack.enter_context(bare_connection(self._bare_engine))
        self.real: list[float] = []
        self.bare: list[float] = []
        self.real_cpu: list[float] = []
        self.bare_cpu: list[float] = []
        self.statements = 0

    def measure(self, *, warm_up: bool) -> None:
        """Write one candidate with the real code, then with the bare driver."""
        with recorded_statements(self._engine) as statements:
            cpu, started = time.process_time(), time.perf_counter()
            with transaction(self._engine) as connection:
                run_candidate(connection)
            real, real_cpu = time.perf_counter() - started, time.process_time() - cpu
        cpu, started = time.process_time(), time.perf_counter()
        execute_again(self._bare, statements)
        self._bare.execute("COMMIT")
        bare, bare_cpu = time.perf_counter() - started, time.process_time() - cpu
        self.statements = len(statements)
        if not warm_up:
            self.real.append(real)
            self.bare.append(bare)
            self.real_cpu.append(real_cpu)
            self.bare_cpu.append(bare_cpu)

    def close(self) -> None:
        """Remove the copies."""
        self._stack.close()
        self._engine.dispose()
        self._bare_engine.dispose()
        for name in ("real", "bare"):
            self._histories.drop(self._kind, self.size, name)


def measure_transactions(scale: Scale) -> None:
    """Compare the transaction of a candidate with the same statements in the bare driver, for every size of history."""
    for kind in scale.kinds:
        pairs = [TransactionPair(scale.histories, kind, size) for size in scale.sizes]
        for number in range(scale.pairs + WARM_UP_PAIRS):
            for pair in pairs:
                pair.measure(warm_up=number < WARM_UP_PAIRS)
        for pair in pairs:
            scale.append(
                "transactions",
                database=kind,
                history=pair.size,
                real_ms=1000 * statistics.median(pair.real),
                bare_ms=1000 * statistics.median(pair.bare),
                ratio=median_ratio(pair.real, pair.bare),
                cpu_ratio=median_ratio(pair.real_cpu, pair.bare_cpu),
                real_cpu_ms=1000 * statistics.median(pair.real_cpu),
                cpu_growth=median_ratio(pair.real_cpu, pairs[0].real_cpu),
                growth=median_ratio(pair.real, pairs[0].real),
                statements=pair.statements,
                commits=1,
                pairs=len(pair.real),
            )
            pair.close()


def measure_leases(scale: Scale) -> None:
    """Compare a lease with the same statements in the bare driver, and with its UPDATE statement alone."""
    for kind in scale.kinds:
        with scale.fresh_databases(kind, "lease", 2) as (url, bare_url):
            for address in (url, bare_url):
                _add_pending_candidates(address, scale.pairs)
            engine, bare_engine = open_record(url), open_record(bare_url)
            real, bare, update = [], [], []
            with bare_connection(bare_engine) as connection:
                for _ in range(scale.pairs - 1):
                    with recorded_statements(engine) as statements:
                        started = time.perf_counter()
                        with transaction(engine) as leasing:
                            transitions.lease_next(leasing, 1, host_id=1, worker_id=1, now=1.0)
                        real.append(time.perf_counter() - started)
                    started = time.perf_counter()
                    execute_again(connection, statements)
                    connection.execute("COMMIT")
                    bare.append(time.perf_counter() - started)
                    (statement,) = [one for one in statements if one.text.startswith("UPDATE eatnas_candidate")]
                    if kind == "sqlite":
                        connection.execute("BEGIN IMMEDIATE")
                    started = time.perf_counter()
                    connection.execute(statement.text, statement.parameters).fetchall()
                    connection.execute("SELECT 1")
                    update.append(time.perf_counter() - started)
                    connection.execute("ROLLBACK")
            scale.append(
                "lease",
                database=kind,
                real_ms=1000 * statistics.median(real),
                bare_ms=1000 * statistics.median(bare),
                update_ms=1000 * statistics.median(update),
                share=median_ratio(bare, real),
                pairs=len(real),
            )
            engine.dispose()
            bare_engine.dispose()


def measure_disk_space(scale: Scale) -> None:
    """Measure the bytes per candidate of five epochs, with regular cleanups of checkpoints."""
    for kind in scale.kinds:
        with scale.fresh_databases(kind, "bytes", 1) as (url,):
            engine = open_record(url)
            before = database_bytes(engine)
            count = scale.pairs * CANDIDATES_PER_PAIR
            for number in range(count):
                with transaction(engine) as connection:
                    run_candidate(connection)
                    if number % 50 == 0:
                        drop_unneeded_checkpoints(connection)
            scale.append("bytes", database=kind, cycles=count, each=(database_bytes(engine) - before) / count)
            engine.dispose()


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def database_bytes(engine: Engine) -> int:
    """Return the size of a database in bytes. On SQLite, merge the write-ahead log first."""
    if engine.dialect.name == "sqlite":
        file = str(engine.url.database)
        with sqlite3.connect(file, isolation_level=None) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(file).stat().st_size
    with read_transaction(engine) as connection:
        return int(connection.execute(select(func.pg_database_size(func.current_database()))).scalar_one())


def _add_pending_candidates(url: str, count: int) -> None:
    engine = open_record(url)
    with transaction(engine) as connection:
        connection.execute(search.update().values(population=count, budget_candidates=count))
        breed_births(connection, 1, 0.0)
    engine.dispose()
