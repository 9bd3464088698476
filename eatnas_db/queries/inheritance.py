"""What a candidate inherits from: its parent, and the chain behind it from which the parent can be made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Exists, Integer, exists, literal, select

from eatnas_db.domain.recipe import inherits_weights, recipe_of
from eatnas_db.domain.states import UNSETTLED, MemoryFallback
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class InheritanceLink:
    """A candidate as it was trained; `spec`, `macro` and `task` are its search's."""

    candidate_id: int
    search_id: int
    code: str
    replica: int
    inherited: bool
    seed: int
    spec: dict[str, Any]
    macro: dict[str, Any]
    task: dict[str, Any]
    lineage_epochs: int
    halved: bool = False

    @property
    def training(self) -> dict[str, Any]:
        """The recipe it was trained by."""
        return recipe_of(self.spec, inheriting=self.inherited)


def has_unsettled_child() -> Exists:
    """Return the condition that a candidate has a child which is still to be trained and may need its weights."""
    child = candidate.alias("child")
    return exists().where(child.c.parent_id == candidate.c.id, child.c.state.in_(UNSETTLED))


def list_inheritance_chain(connection: Connection, parent_id: int, *, whole: bool) -> tuple[InheritanceLink, ...]:
    """The parent, or the `whole` chain: from an ancestor that was trained from scratch down to the parent."""
    up = (
        select(candidate.c.id, candidate.c.parent_id, literal(0, Integer).label("generation"))
        .where(candidate.c.id == parent_id)
        .cte("heritage", recursive=True)
    )
    if whole:
        further = select(candidate.c.id, candidate.c.parent_id, up.c.generation + 1)
        up = up.union_all(further.join(up, candidate.c.id == up.c.parent_id))
    query = (
        select(
            candidate.c.id,
            candidate.c.search_id,
            candidate.c.code,
            candidate.c.replica,
            candidate.c.origin,
            candidate.c.lineage_epochs,
            candidate.c.thrift,
            candidate.c.parent_id,
            search.c.seed,
            search.c.spec,
            search.c.macro,
            search.c.task,
        )
        .select_from(up)
        .join(candidate, candidate.c.id == up.c.id)
        .join(search, search.c.id == candidate.c.search_id)
        .order_by(up.c.generation)
    )
    chain: list[InheritanceLink] = []
    for row in connection.execute(query):
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
            lineage_epochs=row.lineage_epochs or 0,
            halved=row.thrift == MemoryFallback.HALVED,
        )
        chain.append(link)
        if not inherited:
            break
    return tuple(reversed(chain))
