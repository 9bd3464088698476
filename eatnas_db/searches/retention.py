"""Delete checkpoints that no training needs any more."""

from __future__ import annotations

from sqlalchemy import Connection, delete, or_, select

from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint


def drop_unneeded_checkpoints(connection: Connection, search: SearchRecord) -> list[str]:
    """Delete the rows of a search's unneeded checkpoints, and return the paths to remove after the commit.

    Needed are the checkpoints of candidates that are unsettled, live, may be the parent of a birth that is not decided
    yet, have an unsettled child, or are among the fittest, one of which the ranking calls the best. The table contains
    little else, so reading it stays cheap.
    """
    fittest = (
        select(candidate.c.id)
        .where(candidate.c.search_id == search.id, candidate.c.fitness.is_not(None))
        .order_by(candidate.c.fitness.desc(), candidate.c.birth)
        # A re-evaluation may decide among this many.
        .limit(max(1, search.spec["reevaluation"]["top"]))
    )
    unneeded = (
        select(checkpoint.c.path)
        .join(candidate)
        .where(
            # The sum keeps planners from using an index on the search, which would read its whole history.
            candidate.c.search_id + 0 == search.id,
            candidate.c.state.in_(SETTLED),
            candidate.c.birth < search.settled,
            or_(candidate.c.joined.is_(None), candidate.c.left <= search.born - search.lag + 1),
            ~has_unsettled_child(),
            candidate.c.id.not_in(fittest),
        )
    )
    paths = list(connection.execute(unneeded).scalars())
    if paths:
        connection.execute(delete(checkpoint).where(checkpoint.c.path.in_(paths)))
    return paths
