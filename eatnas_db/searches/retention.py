"""Delete checkpoints that no training needs any more."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, case, delete, func, or_, select

from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search as search_table
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


_TOP: Final = search_table.c.spec["reevaluation"]["top"].as_integer()
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
        func.dense_rank()
        .over(
            partition_by=candidate.c.search_id,
            order_by=(candidate.c.fitness.is_(None), candidate.c.fitness.desc(), candidate.c.birth),
        )
        .label("place"),
    )
    .join(candidate, candidate.c.id == checkpoint.c.candidate_id)
    .subquery("held")
)
"""The checkpoints, with the place of their candidate among those of its search that have one.

The fittest candidates of a search keep their checkpoints, so they are the fittest among these too.
"""


def drop_all_unneeded_checkpoints(connection: Connection) -> list[str]:
    """Do the same for all searches at once: the work does not depend on the number of searches."""
    unneeded = (
        select(_HELD.c.path)
        .join(search_table, search_table.c.id == _HELD.c.search_id)
        .where(
            _HELD.c.state.in_(SETTLED),
            _HELD.c.birth < search_table.c.settled,
            or_(_HELD.c.joined.is_(None), _HELD.c.left <= search_table.c.born - search_table.c.lag + 1),
            or_(_HELD.c.fitness.is_(None), _HELD.c.place > case((_TOP > 1, _TOP), else_=1)),
            ~has_unsettled_child(_HELD.c.id),
        )
    )
    paths = connection.execute(unneeded).scalars().all()
    # Another host may drop the same rows, in another order.
    free = select(checkpoint.c.path).where(checkpoint.c.path.in_(paths)).with_for_update(skip_locked=True)
    return _delete(connection, list(connection.execute(free).scalars()) if paths else [])


def _delete(connection: Connection, paths: list[str]) -> list[str]:
    if paths:
        connection.execute(delete(checkpoint).where(checkpoint.c.path.in_(paths)))
    return paths
