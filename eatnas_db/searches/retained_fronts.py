"""Remember the fronts of searches with several objectives from one cleanup of checkpoints to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, exists, select

from eatnas_db.domain.dominance import Values, extend_front
from eatnas_db.domain.objectives import OptimizedMetric, orient_values
from eatnas_db.errors import EatnasError
from eatnas_db.queries.large_fronts import find_front_of_many
from eatnas_db.queries.objective_front import get_objectives
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint

_SELECT_SCORED: Final = (
    select(candidate.c.id, candidate.c.birth, candidate.c.objectives)
    .where(
        candidate.c.search_id == bindparam("search_id"),
        candidate.c.birth >= bindparam("first"),
        candidate.c.objectives.is_not(None),
        exists().where(checkpoint.c.candidate_id == candidate.c.id),
    )
    .order_by(candidate.c.birth)
)


class _Scored(NamedTuple):
    """A scored candidate with a checkpoint."""

    id: int
    birth: int
    objectives: list[float]


class _Front(NamedTuple):
    """The front of the births before `settled`, in order of birth, and the ids of candidates that keep checkpoints."""

    settled: int
    objectives: tuple[OptimizedMetric, ...]
    vectors: dict[int, Values]
    kept: frozenset[int]


class RetainedFronts:
    """Finds the candidates that no other candidate with a checkpoint dominates.

    A settled birth never changes, so a cleanup reads only the births that were settled since the previous cleanup. The
    caller must call `forget` if its transaction fails.
    """

    def __init__(self) -> None:
        self._fronts: dict[int, _Front] = {}

    def forget(self) -> None:
        """Forget all fronts, because they may come from a transaction that was rolled back."""
        self._fronts.clear()

    def list_displaced(self, connection: Connection, settled: dict[int, int]) -> list[int]:
        """Return the candidates that have left the front of these searches since the last cleanup."""
        before = {search_id: self._fronts[search_id].kept for search_id in settled if search_id in self._fronts}
        kept = self.list_kept(connection, settled, of_all=False)
        return [gone for search_id, front in before.items() for gone in front - (kept[search_id] or front)]

    def list_kept(
        self, connection: Connection, settled: dict[int, int], *, of_all: bool = True
    ) -> dict[int, frozenset[int] | None]:
        """Return the front of each search; `settled` maps ids of searches to their numbers of settled births.

        `of_all` is true if `settled` has all searches with candidates to delete; the fronts of other searches are then
        forgotten. The front is None if a search has damaged values. Such a search keeps all checkpoints, and the other
        searches continue.
        """
        fronts: dict[int, _Front] = {} if of_all else dict(self._fronts)
        kept: dict[int, frozenset[int] | None] = {}
        for search_id in sorted(settled):
            try:
                fronts[search_id] = self._find(connection, search_id, settled[search_id])
                kept[search_id] = fronts[search_id].kept
            except (EatnasError, AttributeError, IndexError, KeyError, TypeError, ValueError):
                kept[search_id] = None
                fronts.pop(search_id, None)
        self._fronts = fronts
        return kept

    def _find(self, connection: Connection, search_id: int, settled: int) -> _Front:
        known = self._fronts.get(search_id)
        if known is not None and known.settled == settled:
            return known
        if known is None:
            known = _Front(0, get_objectives(connection, search_id), {}, frozenset())
        found = connection.execute(_SELECT_SCORED, {"search_id": search_id, "first": known.settled})
        rows = [_Scored(*row) for row in found]
        before = [row for row in rows if row.birth < settled]
        vectors = _extend(known, before)
        # Include births that are not settled yet, because they may already dominate others.
        kept = _extend(known._replace(vectors=vectors), rows[len(before) :])
        return known._replace(settled=settled, vectors=vectors, kept=frozenset(kept))


def _extend(front: _Front, rows: Sequence[_Scored]) -> dict[int, Values]:
    """Add younger candidates to a known front, and return the new front in order of birth."""
    added = [orient_values(front.objectives, row.objectives) for row in rows]
    first = find_front_of_many(added) if added else []
    ids = [*front.vectors, *(rows[place].id for place in first)]
    vectors = [*front.vectors.values(), *(added[place] for place in first)]
    return {ids[place]: vectors[place] for place in extend_front(vectors, len(front.vectors))}
