"""Measure the cost of a cleanup of checkpoints after each candidate, in records with many checkpoints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine, text

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.searches.checkpoint_retention import CheckpointRetention
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from scaling.bare_driver import recorded_statements
from scaling.candidates import run_candidate
from scaling.measurements import Scale

FIRST_ID: Final = 1_000_000_000
"""The first id of the candidates of the finished search."""
_SEARCH: Final = "INSERT INTO eatnas_search ({columns}) SELECT {values} FROM eatnas_search WHERE id = 1"
_NUMBERS: Final = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count - 1) "
_CANDIDATES: Final = (
    "INSERT INTO eatnas_candidate (id, search_id, birth, architecture_id, code, origin, replica, state, params, "
    "mult_adds, activations, fitness, joined, created_at) "
    + _NUMBERS
    + "SELECT :first + n, 2, n, 1, 'x', 'random', n, "
    "'scored', 1, 1, 1, n % 1000 / 1000.0, n + 1, 0 FROM numbers"
)
_CHECKPOINTS: Final = (
    "INSERT INTO eatnas_checkpoint (candidate_id, path, attempt, epoch, batch, digest, bytes, created_at) "
    + _NUMBERS
    + "SELECT :first + n, 'f' || n, 1, 1, 0, 'd', 1, 0 FROM numbers"
)


def measure_cleanups(scale: Scale) -> None:
    """Compare a cleanup that reads all checkpoints with a cleanup that reads only the changes."""
    for kind in scale.kinds:
        for size in scale.sizes:
            with scale.fresh_databases(kind, "cleanup", 1) as (url,):
                engine = open_record(url)
                _add_finished_search(engine, size)
                retention = CheckpointRetention()
                with transaction(engine) as connection:
                    retention.drop(connection)
                for name, cleanup in (("all", drop_unneeded_checkpoints), ("changed", retention.drop)):
                    _measure(scale, engine, name, cleanup, database=kind, checkpoints=size)
                engine.dispose()


def _measure(
    scale: Scale, engine: Engine, name: str, cleanup: Callable[[Connection], list[str]], **labels: str | int
) -> None:
    wall, processor, statements = [], [], 0
    for _ in range(scale.pairs):
        with transaction(engine) as connection:
            run_candidate(connection)
        with recorded_statements(engine) as recorded, transaction(engine) as connection:
            started, busy = time.perf_counter(), time.process_time()
            cleanup(connection)
            wall.append(time.perf_counter() - started)
            processor.append(time.process_time() - busy)
        statements = max(statements, len(recorded))
    scale.append(
        "cleanup",
        **labels,
        reads=name,
        cleanup_ms=1000 * statistics.median(wall),
        processor_ms=1000 * statistics.median(processor),
        statements=statements,
        cycles=scale.pairs,
    )


def _add_finished_search(engine: Engine, count: int) -> None:
    """Add a finished search whose population keeps `count` checkpoints."""
    with transaction(engine) as connection:
        names = list(connection.execute(text("SELECT * FROM eatnas_search")).keys())
        changed = {"id": "2", "name": "'finished'", "born": ":count", "settled": ":count", "finished_at": "1"}
        values = ", ".join(changed.get(name, f'"{name}"') for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        connection.execute(text(_SEARCH.format(columns=columns, values=values)), {"count": count})
        for statement in (_CANDIDATES, _CHECKPOINTS):
            connection.execute(text(statement), {"count": count, "first": FIRST_ID})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
