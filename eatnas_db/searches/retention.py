"""Delete checkpoints that no training needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, case, delete, exists, func, or_, select

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.domain.objectives import orient_values
from eatnas_db.domain.states import SETTLED
from eatnas_db.errors import EatnasError
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.queries.large_fronts import find_front_of_many
from eatnas_db.queries.objective_front import get_objectives
from eatnas_db.schema.candidates import FITTEST_FIRST, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint

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
        candidate.c.objectives,
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
"""The checkpoints, with the place of their candidate among those of its search that have one.

The fittest candidates of a search keep their checkpoints, so they are the fittest among these too.
"""


def drop_unneeded_checkpoints(connection: Connection) -> list[str]:
    """Delete the rows of the unneeded checkpoints of all searches, and return the paths to remove after the commit.

    Needed are the checkpoints of candidates that are unsettled, live, may be the parent of a birth that is not decided
    yet, have an unsettled child, or are among the fittest, one of which the ranking calls the best. With several
    objectives, the front is needed too: the ranking holds nothing else. The table contains little else, so reading it
    stays cheap. The work does not depend on the number of searches.
    """
    # A spec that was damaged by hand must not fail the statement: all searches would stop.
    if is_postgresql(connection):
        top = case((func.json_typeof(_STORED_TOP) == "number", _STORED_TOP.as_float()))
    else:
        top = case((func.json_valid(search.c.spec) == 1, _STORED_TOP.as_float()))
    unneeded = (
        select(_HELD.c.path, _HELD.c.id, _HELD.c.search_id, _HELD.c.objectives)
        .join(search, search.c.id == _HELD.c.search_id)
        .where(
            _HELD.c.state.in_(SETTLED),
            _HELD.c.birth < search.c.settled,
            or_(_HELD.c.joined.is_(None), _HELD.c.left <= search.c.born - search.c.lag + 1),
            or_(_HELD.c.fitness.is_(None), _HELD.c.place > case((top > 1, top), else_=1)),
            ~has_unsettled_child(_HELD.c.id),
        )
    )
    rows = connection.execute(unneeded).all()
    fronts = _list_fronts(connection, {row.search_id for row in rows if row.objectives is not None})
    paths = [row.path for row in rows if row.id not in fronts]
    # Another host may drop the same rows, in another order.
    free = select(checkpoint.c.path).where(checkpoint.c.path.in_(paths)).with_for_update(skip_locked=True)
    dropped = list(connection.execute(free).scalars()) if paths else []
    if dropped:
        connection.execute(delete(checkpoint).where(checkpoint.c.path.in_(dropped)))
    return dropped


def _list_fronts(connection: Connection, search_ids: Iterable[int]) -> set[int]:
    """Return the candidates of searches with several objectives that no other one with a checkpoint dominates."""
    fronts: set[int] = set()
    for search_id in sorted(search_ids):
        query = (
            select(candidate.c.id, candidate.c.objectives)
            .where(
                candidate.c.search_id == search_id,
                candidate.c.objectives.is_not(None),
                exists().where(checkpoint.c.candidate_id == candidate.c.id),
            )
            .order_by(candidate.c.birth)
        )
        rows = connection.execute(query).all()
        try:
            objectives = get_objectives(connection, search_id)
            places: Iterable[int] = find_front_of_many([orient_values(objectives, row.objectives) for row in rows])
        except (EatnasError, AttributeError, IndexError, KeyError, TypeError, ValueError):
            # Values that were damaged by hand: the search keeps everything, and the others continue.
            places = range(len(rows))
        fronts |= {rows[place].id for place in places}
    return fronts
