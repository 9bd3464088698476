"""Measure the slow queries on the longest history: their whole time, and their time in the database."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sized
from functools import partial

from sqlalchemy import Connection, Engine, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.pareto import list_front
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.ranking import list_best
from eatnas_db.schema.candidates import candidate
from scaling.bare_driver import (
    bare_connection,
    milliseconds_in_database,
    milliseconds_of_lineage,
    recorded_statements,
)
from scaling.measurements import Scale

REPETITIONS = 4
"""The number of repetitions of each query. The first repetition is a warm-up."""


def measure_queries(scale: Scale) -> None:
    """Measure the ranking, the Pareto front, the longest lineage and the steps of a search."""
    size = scale.sizes[-1]
    for kind in scale.kinds:
        engine = open_record(scale.histories.url(kind, size))
        youngest = _youngest_scored(engine)
        queries: dict[str, Callable[[Connection], Sized]] = {
            "best": lambda connection: list_best(connection, 1),
            "pareto": lambda connection: list_front(connection, 1),
            "lineage": partial(get_lineage, candidate_id=youngest),
            "quality": lambda connection: list_steps(connection, 1),
        }
        with bare_connection(engine) as bare:
            for name, query in queries.items():
                whole, in_database, rows = [], [], 0
                for _ in range(REPETITIONS):
                    with read_transaction(engine) as connection, recorded_statements(engine) as statements:
                        started = time.perf_counter()
                        answer = query(connection)
                        whole.append(1000 * (time.perf_counter() - started))
                        rows = len(answer)
                        del answer
                    if name == "lineage":
                        in_database.append(milliseconds_of_lineage(bare, youngest, rows))
                    else:
                        in_database.append(sum(milliseconds_in_database(bare, statement) for statement in statements))
                scale.append(
                    "query",
                    database=kind,
                    history=size,
                    query=name,
                    whole_ms=statistics.median(whole[1:]),
                    in_database_ms=statistics.median(in_database[1:]),
                    rows=rows,
                )
        engine.dispose()


def _youngest_scored(engine: Engine) -> int:
    query = select(candidate.c.id).where(candidate.c.fitness.is_not(None)).order_by(candidate.c.id.desc()).limit(1)
    with read_transaction(engine) as connection:
        return int(connection.execute(query).scalar_one())
