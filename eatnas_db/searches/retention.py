"""Delete checkpoints that no training needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, or_, select
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.schema.candidates import FITTEST_FIRST, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.retained_fronts import RetainedFronts

NOBODY: Final = frozenset[int]()
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


def drop_unneeded_checkpoints(connection: Connection, fronts: RetainedFronts | None = None) -> list[str]:
    """Delete the rows of the unneeded checkpoints of all searches, and return the paths to remove after the commit.

    A checkpoint is needed if its candidate is unsettled, is a member of the population, may become the parent of a
    birth that is not decided yet, has an unsettled child, or is among the fittest, which include the best of the
    ranking. With several objectives, the candidates of the front need their checkpoints too. This reads the whole
    table; `checkpoint_retention` reads what has changed. `fronts` remembers the fronts from one call to the next.
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
    return delete_rows(connection, [row.path for row in rows if not is_kept(kept.get(row.search_id, NOBODY), row.id)])


def stored_top(connection: Connection) -> ColumnElement[float]:
    """Return the number of the fittest candidates of a search that keep their checkpoints, as its spec states it.

    It is null if the spec was damaged by hand: an error would stop all searches.
    """
    if is_postgresql(connection):
        return case((func.json_typeof(_STORED_TOP) == "number", _STORED_TOP.as_float()))
    return case((func.json_valid(search.c.spec) == 1, _STORED_TOP.as_float()))


def stored_metrics(connection: Connection) -> ColumnElement[str | None]:
    """Return the several objectives of a search as text; null if it has one, or if its spec was damaged by hand."""
    metrics = search.c.spec["objective"]["metrics"].as_string()
    return metrics if is_postgresql(connection) else case((func.json_valid(search.c.spec) == 1, metrics))


def is_outlived(columns: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[bool]:
    """Return the condition that a candidate is settled, not live, and no parent of an undecided birth.

    `columns` are those of the candidate; its search is joined.
    """
    return and_(
        columns.state.in_(SETTLED),
        columns.birth < search.c.settled,
        or_(columns.joined.is_(None), columns.left <= search.c.born - search.c.lag + 1),
    )


def delete_rows(connection: Connection, paths: Sequence[str]) -> list[str]:
    """Delete checkpoints by their paths, and return the paths of those that no other host deletes."""
    # Another host may delete the same rows in another order.
    free = select(checkpoint.c.path).where(checkpoint.c.path.in_(paths)).with_for_update(skip_locked=True)
    dropped = list(connection.execute(free).scalars()) if paths else []
    if dropped:
        connection.execute(delete(checkpoint).where(checkpoint.c.path.in_(dropped)))
    return dropped


def is_kept(front: frozenset[int] | None, candidate_id: int) -> bool:
    """Return whether a candidate is on a front; None: the front is unknown, so it may be."""
    return front is None or candidate_id in front
