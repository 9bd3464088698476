"""Query the learning curves of candidates: their metrics after each epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import epoch, lease

MAX_CURVE_POINTS: Final = 200
OWN_COLUMNS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
"""The metrics that have columns of their own in the table of epochs."""


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """The results after `epochs` epochs. A field is None if the training does not measure it."""

    epochs: int
    metric: float | None
    train_loss: float | None
    val_loss: float | None


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The points of one candidate in order of epochs. `in_training` is true if further points may follow."""

    candidate_id: int
    birth: int
    in_training: bool
    points: tuple[LearningPoint, ...]


def list_candidates_in_training(connection: Connection, search_id: int, limit: int) -> list[int]:
    """Return the ids of at most `limit` candidates of a search that are in training, the oldest first."""
    query = (
        select(lease.c.candidate_id)
        .join(candidate, candidate.c.id == lease.c.candidate_id)
        .where(candidate.c.search_id == search_id)
        .order_by(lease.c.candidate_id)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def list_learning_curves(
    connection: Connection, candidate_ids: Sequence[int], metric: str, max_points: int = MAX_CURVE_POINTS
) -> tuple[LearningCurve, ...]:
    """Return the curves of candidates that have finished an epoch, in the given order.

    If a training has more than `max_points` epochs, only evenly spaced epochs and the last epoch are read.
    """
    of_candidates = epoch.c.candidate_id.in_(candidate_ids)
    last = connection.execute(select(func.max(epoch.c.number)).where(of_candidates)).scalar() or 0
    interval = -(-(last + 1) // max_points)
    value = epoch.c[metric] if metric in OWN_COLUMNS else epoch.c.metrics[metric].as_float()
    query = (
        select(epoch.c.candidate_id, epoch.c.number + 1, value, epoch.c.train_loss, epoch.c.val_loss)
        .where(of_candidates, epoch.c.number % interval == last % interval)
        .order_by(epoch.c.candidate_id, epoch.c.number)
    )
    points: defaultdict[int, list[LearningPoint]] = defaultdict(list)
    for candidate_id, *results in connection.execute(query):
        points[candidate_id].append(LearningPoint(*results))
    births = (
        select(candidate.c.id, candidate.c.birth, lease.c.candidate_id.is_not(None))
        .outerjoin(lease, lease.c.candidate_id == candidate.c.id)
        .where(candidate.c.id.in_(list(points)))
    )
    known = {row[0]: row for row in connection.execute(births)}
    return tuple(
        LearningCurve(candidate_id, known[candidate_id][1], known[candidate_id][2], tuple(points[candidate_id]))
        for candidate_id in candidate_ids
        if candidate_id in points
    )
