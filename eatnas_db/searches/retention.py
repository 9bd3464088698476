"""Drop the checkpoints that no training needs any more."""

from __future__ import annotations

from sqlalchemy import Connection, delete, or_, select

from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint


def drop_unneeded_checkpoints(connection: Connection, row: SearchRecord) -> list[str]:
    """Drop the rows of checkpoints that nobody needs any more; their paths, to be removed after the commit.

    Needed are those of candidates that are to be trained, that live, that a birth still to be decided may have
    for a parent, or that have a child in training. The table holds little else, so reading it stays cheap.
    """
    needless = (
        select(checkpoint.c.path)
        .join(candidate)
        .where(
            # A sum, so that no planner goes by an index of the search: it would read the whole history.
            candidate.c.search_id + 0 == row.id,
            candidate.c.state.in_(SETTLED),
            candidate.c.birth < row.settled,
            or_(candidate.c.joined.is_(None), candidate.c.left <= row.born - row.lag + 1),
            ~has_unsettled_child(),
        )
    )
    paths = list(connection.execute(needless).scalars())
    if paths:
        connection.execute(delete(checkpoint).where(checkpoint.c.path.in_(paths)))
    return paths
