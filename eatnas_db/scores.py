"""Record the scores, the measurements and the memory use of a finished training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, insert, or_, update

from eatnas_db.database.bulk_insert import insert_rows
from eatnas_db.leases import LeaseToken
from eatnas_db.schema.hosts import MAX_DEVICE_NAME
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import measurement, score

_INSERT_SCORE: Final = insert(score)
_INSERT_MEASUREMENT: Final = insert(measurement)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A row of the table `measurement`, whose description explains the fields."""

    metric: str
    device: str
    device_name: str
    batch: int
    threads: int
    runs: int
    median: float
    low: float
    high: float
    quiet: bool | None


@dataclass(frozen=True, slots=True)
class ImportedScore:
    """A score that was measured elsewhere, after `epochs` epochs, for a birth of an imported search."""

    birth: int
    value: float
    fitness: float
    seed: int
    epochs: int | None
    provenance_id: int


def insert_scores(
    connection: Connection, token: LeaseToken, metrics: Mapping[str, float], *, seed: int, provenance_id: int
) -> None:
    """Insert a row for each metric."""
    rows = [
        {
            "candidate_id": token.candidate,
            "metric": metric,
            "seed": seed,
            "value": value,
            "attempt": token.attempt,
            "provenance_id": provenance_id,
        }
        for metric, value in metrics.items()
    ]
    connection.execute(_INSERT_SCORE, rows)


def insert_imported_scores(connection: Connection, metric: str, scores: Mapping[int, ImportedScore]) -> None:
    """Insert a row for each candidate, given by its id."""
    rows = [
        {
            "candidate_id": candidate_id,
            "metric": metric,
            "seed": imported.seed,
            "value": imported.value,
            "attempt": 1,
            "provenance_id": imported.provenance_id,
        }
        for candidate_id, imported in scores.items()
    ]
    insert_rows(connection, score, rows)


def insert_measurements(connection: Connection, token: LeaseToken, measurements: Sequence[Measurement]) -> None:
    """Insert a row for each measurement. Without measurements, execute no statement."""
    if measurements:
        key = {"candidate_id": token.candidate, "attempt": token.attempt}
        rows = [
            {**asdict(measured), "device_name": measured.device_name[:MAX_DEVICE_NAME], **key}
            for measured in measurements
        ]
        connection.execute(_INSERT_MEASUREMENT, rows)


_RAISE_MEMORY_SHARE: Final = (
    update(search)
    .where(
        search.c.id == bindparam("search_id"),
        or_(search.c.memory_share.is_(None), search.c.memory_share < bindparam("share")),
    )
    .values(memory_share=bindparam("share"))
)


def raise_memory_share(connection: Connection, search_id: int, share: float) -> None:
    """Store a training's memory use, as a share of its estimate, if this share is the largest of the search."""
    connection.execute(_RAISE_MEMORY_SHARE, {"search_id": search_id, "share": share})
