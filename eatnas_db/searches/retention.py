"""Delete checkpoints that no training needs any longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Float, Numeric, and_, case, cast, delete, func, or_, select
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from eatnas_db.database.batches import MAX_VALUES, split_in_batches
from eatnas_db.database.dialects import is_postgresql, null_unless_json
from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.schema.candidates import FITTEST_FIRST, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.retained_fronts import RetainedFronts

NO_CANDIDATES: Final = frozenset[int]()
MAX_TOP: Final = 1_000_000_000
"""A larger number in a damaged spec counts as this number, because a database may be unable to compare the larger
number.
"""
_STORED_TOP: Final = search.c.spec["reevaluation"]["top"]
_HELD: Final = (
    select(
        checkpoint.c.path,
        candidate.c.id,
        candidate.c.state,
        candidate.c.fitness,
        candidate.c.birth,
        candidate.c.joined,
        candidate.c.left,
        candidate.c.search_id,
        candidate.c.objectives.is_not(None).label("has_objectives"),
        func.dense_rank()
        .over(
            partition_by=candidate.c.search_id,
            order_by=(candidate.c.fitness.is_(None), *FITTEST_FIRST),
        )
        .label("place"),
    )
    .join(candidate, candidate.c.id == checkpoint.c.candidate_id)
    .subquery("held")
)
"""The checkpoints, each with the rank of its candidate among the candidates of the search that have a checkpoint.

The fittest candidates of a search keep their checkpoints, so they also have the first ranks here.
"""


class CheckpointKey(NamedTuple):
    """The primary key of a checkpoint."""

    candidate_id: int
    path: str


def drop_unneeded_checkpoints(connection: Connection, fronts: RetainedFronts | None = None) -> list[str]:
    """Delete the rows of the unneeded checkpoints of all searches, and return the paths to remove after the commit.

    A checkpoint is needed if its candidate is unsettled, is a member of the population, may become the parent of a
    birth that is not decided yet, has an unsettled child, or is among the fittest, which include the best of the
    ranking. With several objectives, the candidates of the front also need their checkpoints. This function reads the
    whole table; `checkpoint_retention` reads only the changes. `fronts` remembers the fronts from one call to the next.
    """
    top = stored_top(connection)
    unneeded = (
        select(_HELD.c.path, _HELD.c.id, _HELD.c.search_id, _HELD.c.has_objectives, search.c.settled)
        .join(search, search.c.id == _HELD.c.search_id)
        .where(
            is_outlived(_HELD.c),
            or_(_HELD.c.fitness.is_(None), _HELD.c.place > case((top > 1, top), else_=1)),
            ~has_unsettled_child(_HELD.c.id),
        )
    )
    rows = connection.execute(unneeded).all()
    settled = {row.search_id: row.settled for row in rows if row.has_objectives}
    kept = (fronts or RetainedFronts()).list_kept(connection, settled)
    unneeded_rows = [row for row in rows if not is_kept(kept.get(row.search_id, NO_CANDIDATES), row.id)]
    return delete_rows(connection, [CheckpointKey(row.id, row.path) for row in unneeded_rows])


def stored_top(connection: Connection) -> ColumnElement[float]:
    """Return the number of the fittest candidates of a search that keep their checkpoints, as the spec states it.

    The number is null if the spec is damaged, and at most `MAX_TOP`, because an error would stop all searches.
    """
    if is_postgresql(connection):
        top = func.least(cast(_STORED_TOP.as_string(), Numeric), MAX_TOP)
        return case((func.json_typeof(_STORED_TOP) == "number", cast(top, Float)))
    return null_unless_json(connection, search.c.spec, func.min(_STORED_TOP.as_float(), MAX_TOP))


def stored_metrics(connection: Connection) -> ColumnElement[str | None]:
    """Return the list of objectives of a search as text; null with a single objective or a damaged spec."""
    metrics = search.c.spec["objective"]["metrics"].as_string()
    return null_unless_json(connection, search.c.spec, metrics)


def is_outlived(columns: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[bool]:
    """Return the condition that a candidate is settled, not live, and cannot become the parent of an undecided birth.

    `columns` are the columns of the candidate; the query must join its search.
    """
    return and_(
        columns.state.in_(SETTLED),
        columns.birth < search.c.settled,
        or_(columns.joined.is_(None), columns.left <= search.c.born - search.c.lag + 1),
    )


def delete_rows(connection: Connection, rows: Sequence[CheckpointKey]) -> list[str]:
    """Delete checkpoints except those that another host is deleting, and return the paths of the deleted
    checkpoints.
    """
    dropped: list[str] = []
    for batch in split_in_batches(rows, MAX_VALUES // 2):
        # The table's index begins with the candidate. Without a condition on the candidate, the database would read the
        # whole table.
        are_given = (
            checkpoint.c.candidate_id.in_({row.candidate_id for row in batch}),
            checkpoint.c.path.in_({row.path for row in batch}),
        )
        # Skip locked rows: another host may delete the same rows in another order, which could cause a deadlock.
        free = select(checkpoint.c.candidate_id, checkpoint.c.path).where(*are_given)
        free_rows = connection.execute(free.with_for_update(skip_locked=True)).all()
        if free_rows:
            of_candidates = checkpoint.c.candidate_id.in_({row.candidate_id for row in free_rows})
            paths = {row.path for row in free_rows}
            connection.execute(delete(checkpoint).where(of_candidates, checkpoint.c.path.in_(paths)))
            dropped += paths
    return dropped


def is_kept(front: frozenset[int] | None, candidate_id: int) -> bool:
    """Return whether a candidate is or may be on a front; the front is None if it is unknown."""
    return front is None or candidate_id in front
