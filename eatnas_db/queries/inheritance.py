"""Query the candidates from which a candidate inherits its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Exists, Integer, Select, exists, literal, select

from eatnas_db.domain.recipe import inherits_weights, recipe_of
from eatnas_db.domain.rungs import Rungs, rungs_of
from eatnas_db.domain.states import UNSETTLED, MemoryFallback
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class InheritanceLink:
    """A candidate of an inheritance chain, with all data that are needed to train it again.

    `seed`, `spec`, `macro`, `task` and `data_state` are those of the candidate's search. `inherited` is true if the
    candidate's training started from the weights of the previous link, and `halved` is true if the training split each
    batch in two halves. In a search with `rungs`, the training ended at `rung`.
    """

    candidate_id: int
    search_id: int
    code: str
    replica: int
    inherited: bool
    seed: int
    spec: dict[str, Any]
    macro: dict[str, Any]
    task: dict[str, Any]
    data_state: dict[str, Any] | None
    lineage_epochs: int
    halved: bool = False
    rungs: Rungs | None = None
    rung: int = 0

    @property
    def training(self) -> dict[str, Any]:
        """The recipe of the candidate's training."""
        recipe = recipe_of(self.spec, inheriting=self.inherited)
        if self.rungs is None or self.rungs.resumes:
            return recipe
        return {**recipe, "epochs": self.rungs.epochs[self.rung]}

    @property
    def stop_after(self) -> int | None:
        """The number of epochs after which the training stopped at a rung; None if the training had all epochs."""
        if self.rungs is None or not self.rungs.resumes or self.rung == self.rungs.last:
            return None
        return self.rungs.epochs[self.rung]


def has_unsettled_child(candidate_id: ColumnElement[int] = candidate.c.id) -> Exists:
    """Return the SQL condition that a candidate has an unsettled child, which may need the candidate's weights."""
    child = candidate.alias("child")
    return exists().where(child.c.parent_id == candidate_id, child.c.state.in_(UNSETTLED))


def list_inheritance_chain(connection: Connection, parent_id: int, *, whole: bool) -> tuple[InheritanceLink, ...]:
    """Return the parent alone or, if `whole` is true, the parent with its ancestors.

    The whole chain runs from the nearest ancestor that was trained from scratch down to the parent.
    """
    chain: list[InheritanceLink] = []
    for row in connection.execute(_select_ancestors(parent_id, whole=whole)):
        inherited = inherits_weights(row.spec, origin=row.origin, parent_id=row.parent_id)
        link = InheritanceLink(
            candidate_id=row.id,
            search_id=row.search_id,
            code=row.code,
            replica=row.replica,
            inherited=inherited,
            seed=row.seed,
            spec=row.spec,
            macro=row.macro,
            task=row.task,
            data_state=row.data_state,
            lineage_epochs=row.lineage_epochs or 0,
            halved=row.thrift == MemoryFallback.HALVED,
            rungs=rungs_of(row.spec, row.origin),
            rung=row.rung,
        )
        chain.append(link)
        if not inherited:
            break
    return tuple(reversed(chain))


def _select_ancestors(parent_id: int, *, whole: bool) -> Select[Any]:
    """Select a candidate and, with `whole`, its ancestors, the youngest first."""
    ancestors = (
        select(candidate.c.id, candidate.c.parent_id, literal(0, Integer).label("generation"))
        .where(candidate.c.id == parent_id)
        .cte("ancestors", recursive=True)
    )
    if whole:
        next_ancestor = select(candidate.c.id, candidate.c.parent_id, ancestors.c.generation + 1)
        ancestors = ancestors.union_all(next_ancestor.join(ancestors, candidate.c.id == ancestors.c.parent_id))
    return (
        select(
            candidate.c.id,
            candidate.c.search_id,
            candidate.c.code,
            candidate.c.replica,
            candidate.c.origin,
            candidate.c.lineage_epochs,
            candidate.c.thrift,
            candidate.c.rung,
            candidate.c.parent_id,
            search.c.seed,
            search.c.spec,
            search.c.macro,
            search.c.task,
            search.c.data_state,
        )
        .select_from(ancestors)
        .join(candidate, candidate.c.id == ancestors.c.id)
        .join(search, search.c.id == candidate.c.search_id)
        .order_by(ancestors.c.generation)
    )
