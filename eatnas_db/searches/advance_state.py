"""The state of a search while a transaction advances it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eatnas_db.domain.dominance import Values
from eatnas_db.domain.evolution import GUIDED_MIN_SCORES, Member, Plateau
from eatnas_db.domain.objectives import OptimizedMetric, list_objectives, orient_values
from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.queries.searches import SearchRecord, births_allowed


@dataclass(slots=True)
class AdvanceState:
    """The record of a search as the transaction read it, and the values that the transaction has changed since then."""

    search: SearchRecord
    born: int
    settled: int
    exhausted: bool
    ends_at: int | None
    plateau: Plateau | None
    objectives: tuple[OptimizedMetric, ...] = ()
    """The objectives of a search with several objectives; empty with one objective, or if the search only retrains
    candidates.
    """
    reference: tuple[float, ...] | None = None
    """The reference point of the hypervolume; None until it is read."""
    population: list[Member] | None = None
    """The members after the last settled birth; None until they are read."""
    settled_failure: bool = False
    """Whether this transaction has settled a failed birth."""
    awaits_model: bool = False
    """Whether the next birth must first be decided by the model, outside a transaction."""

    @classmethod
    def of(cls, search: SearchRecord) -> AdvanceState:
        """Return the state of a search at the start of a transaction."""
        mark, since = search.quality_mark, search.flat_since
        return cls(
            search=search,
            born=search.born,
            settled=search.settled,
            exhausted=search.exhausted,
            ends_at=search.ends_at,
            plateau=None if mark is None or since is None else Plateau(mark, since),
            objectives=list_objectives(search.spec) if search.kind == SearchKind.EVOLUTION else (),
        )

    def orient(self, values: Sequence[float] | None) -> Values:
        """Return the values of several objectives for a `Member`, or an empty tuple if the search has one objective."""
        return orient_values(self.objectives, values) if self.objectives and values is not None else ()

    @property
    def births_allowed(self) -> int:
        """The number of births after which the search ends."""
        return births_allowed(self.search.budget_candidates, self.ends_at)

    @property
    def is_guided(self) -> bool:
        """Whether a model of the scores decides the births after the initial ones."""
        return bool(self.search.spec["evolution"]["births"] == "guided")

    @property
    def visible_step(self) -> int:
        """The step whose population decides the next birth."""
        return self.born - self.search.lag + 1

    @property
    def can_breed(self) -> bool:
        """Whether the next birth can be decided now."""
        search = self.search
        if self.exhausted or self.awaits_model or search.wish != DesiredState.RUN:
            return False
        if self.born >= self.births_allowed or search.over_budget:
            return False
        return self.born < search.initial_births or self.visible_step <= self.settled

    @property
    def needs_model(self) -> bool:
        """Whether the next birth can be decided now, and the model decides it."""
        needed = 1 if self.search.has_sources else GUIDED_MIN_SCORES
        is_predictable = self.visible_step >= needed and self.born >= self.search.initial_births
        return self.is_guided and is_predictable and self.can_breed
