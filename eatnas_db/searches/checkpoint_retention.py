"""Delete the checkpoints that have become unneeded since the last cleanup; `retention` defines which ones are needed.

A candidate that keeps its checkpoint can lose it only when a birth of its search is inserted or settles, or when one of
the candidate's children settles. Therefore, a cleanup reads only the searches whose births have changed, and only the
affected candidates of these searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, exists, or_, select, union

from eatnas_db.database.batches import split_in_batches
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.schema.candidates import FITTEST_FIRST, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.retained_fronts import RetainedFronts
from eatnas_db.searches.retention import (
    NO_CANDIDATES,
    CheckpointKey,
    delete_rows,
    drop_unneeded_checkpoints,
    is_kept,
    is_outlived,
    stored_metrics,
    stored_top,
)

CLEANUPS_UNTIL_ALL: Final = 360
"""One of this many cleanups reads all checkpoints, because a host skips rows that another host is deleting, and that
deletion may fail.
"""

_OF_SEARCH: Final = candidate.c.search_id == bindparam("search_id")
_CONCERNED: Final = union(
    select(candidate.c.id).where(
        _OF_SEARCH, candidate.c.birth >= bindparam("settled_before"), candidate.c.birth < bindparam("settled")
    ),
    select(candidate.c.id).where(
        _OF_SEARCH, candidate.c.left > bindparam("visible_before"), candidate.c.left <= bindparam("visible")
    ),
    # The parents of births that were unsettled, or null; they may belong to another search.
    select(candidate.c.parent_id).where(_OF_SEARCH, candidate.c.birth >= bindparam("settled_before")),
)
_FITTEST: Final = (
    select(candidate.c.id)
    .where(_OF_SEARCH, candidate.c.fitness.is_not(None), exists().where(checkpoint.c.candidate_id == candidate.c.id))
    .order_by(*FITTEST_FIRST)
    .limit(bindparam("limit"))
)


class _SearchState(NamedTuple):
    """The properties of a search that decide which of its candidates keep their checkpoints."""

    id: int
    born: int
    settled: int
    lag: int
    top: float | None
    has_objectives: bool
    is_open: bool

    @property
    def kept(self) -> int:
        """The number of candidates that keep their checkpoints because they are the fittest."""
        return max(1, int(self.top or 0))

    @property
    def visible(self) -> int:
        """The earliest step whose members may become the parent of an undecided birth."""
        return self.born - self.lag + 1


class CheckpointRetention:
    """Deletes the rows of unneeded checkpoints; the first cleanup reads all of them.

    The caller must call `forget` if its transaction fails.
    """

    def __init__(self) -> None:
        self._fronts = RetainedFronts()
        self._known: dict[int, _SearchState] = {}
        self._last_id = self._cleanups = 0

    def forget(self) -> None:
        """Forget all states of searches, because they may come from a transaction that was rolled back."""
        self._fronts.forget()
        self._known.clear()
        self._last_id = self._cleanups = 0

    def drop(self, connection: Connection) -> list[str]:
        """Delete the rows of the checkpoints that nothing needs any longer, and return their paths."""
        states = self._list_states(connection)
        if any(state.settled < self._known.get(state.id, state).settled for state in states):
            self.forget()  # Somebody has restored a backup of the record.
            states = self._list_states(connection)
        reads_all = self._cleanups % CLEANUPS_UNTIL_ALL == 0
        self._cleanups += 1
        changed = [state for state in states if self._known.get(state.id) != state]
        if reads_all:
            dropped = drop_unneeded_checkpoints(connection, self._fronts)
            self._fronts.list_kept(connection, _with_objectives(states), of_all=False)
        else:
            dropped = self._drop_concerned(connection, changed) if changed else []
        self._known = {state.id: state for state in states if state.is_open}
        self._last_id = max([self._last_id, *(state.id for state in states)])
        return dropped

    def _list_states(self, connection: Connection) -> list[_SearchState]:
        """Return the new searches, the open searches, and the searches that were open at the last cleanup."""
        columns = (search.c.id, search.c.born, search.c.settled, search.c.lag, stored_top(connection).label("top"))
        objectives = stored_metrics(connection).is_not(None).label("has_objectives")
        is_open = search.c.finished_at.is_(None)
        others = or_(search.c.id.in_(tuple(self._known)), search.c.id > self._last_id)
        # Use a union, because query planners read the whole table for an OR.
        wanted = union(select(search.c.id).where(is_open), select(search.c.id).where(others))
        query = select(*columns, objectives, is_open.label("is_open")).where(search.c.id.in_(wanted))
        return [_SearchState(*row) for row in connection.execute(query)]

    def _drop_concerned(self, connection: Connection, changed: Sequence[_SearchState]) -> list[str]:
        fittest: dict[int, frozenset[int]] = {}
        concerned: set[int] = set()
        for state in changed:
            before = self._known.get(state.id, state._replace(born=0, settled=0))
            window = {
                "search_id": state.id,
                "settled_before": before.settled,
                "settled": state.settled,
                # Some of the steps that were visible at the last cleanup may not have been settled then.
                "visible_before": min(before.visible, before.settled),
                "visible": state.visible,
            }
            ids = connection.execute(_CONCERNED, window).scalars()
            concerned.update(candidate_id for candidate_id in ids if candidate_id is not None)
            # Each birth that has been scored since the last cleanup moves the others down by one place at most.
            places = {"search_id": state.id, "limit": state.kept + state.born - before.settled}
            ranked = connection.execute(_FITTEST, places).scalars().all()
            fittest[state.id] = frozenset(ranked[: state.kept])
            concerned.update(ranked[state.kept :])
        concerned.update(self._fronts.list_displaced(connection, _with_objectives(changed)))
        return self._drop_unneeded(connection, sorted(concerned), fittest)

    def _drop_unneeded(
        self, connection: Connection, concerned: Sequence[int], fittest: dict[int, frozenset[int]]
    ) -> list[str]:
        unneeded = (
            select(
                checkpoint.c.path,
                candidate.c.id,
                candidate.c.search_id,
                candidate.c.objectives.is_not(None).label("has_objectives"),
                search.c.settled,
                stored_top(connection).label("top"),
            )
            .join(candidate, candidate.c.id == checkpoint.c.candidate_id)
            .join(search, search.c.id == candidate.c.search_id)
            .where(is_outlived(candidate.c), ~has_unsettled_child())
        )
        rows = [
            row
            for batch in split_in_batches(concerned)
            for row in connection.execute(unneeded.where(checkpoint.c.candidate_id.in_(batch)))
        ]
        settled = {row.search_id: row.settled for row in rows if row.has_objectives}
        kept = self._fronts.list_kept(connection, settled, of_all=False)
        tops = {row.search_id: max(1, int(row.top or 0)) for row in rows if row.search_id not in fittest}
        for search_id, top in tops.items():  # parents may belong to searches that have not changed
            fittest[search_id] = frozenset(_list_fittest(connection, search_id, top))
        return delete_rows(
            connection,
            [
                CheckpointKey(row.id, row.path)
                for row in rows
                if row.id not in fittest[row.search_id] and not is_kept(kept.get(row.search_id, NO_CANDIDATES), row.id)
            ],
        )


def _with_objectives(states: Sequence[_SearchState]) -> dict[int, int]:
    """Return the number of settled births of each search with several objectives, by the id of the search."""
    return {state.id: state.settled for state in states if state.has_objectives}


def _list_fittest(connection: Connection, search_id: int, top: int) -> Iterable[int]:
    return connection.execute(_FITTEST, {"search_id": search_id, "limit": top}).scalars()
