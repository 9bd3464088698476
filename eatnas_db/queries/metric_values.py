"""Query the measured values of the metric that a search optimizes."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from eatnas_db.database.batches import split_in_batches
from eatnas_db.schema.candidates import candidate


def list_metric_values(connection: Connection, candidate_ids: Collection[int]) -> dict[int, float]:
    """Return, by candidate id, the value of the metric that the candidate's search optimizes."""
    query = select(candidate.c.id, candidate.c.accuracy).where(candidate.c.accuracy.is_not(None))
    return {
        row[0]: row[1]
        for batch in split_in_batches(list(candidate_ids))
        for row in connection.execute(query.where(candidate.c.id.in_(batch)))
    }
