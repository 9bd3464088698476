"""Query the ancestors and the descendants of a candidate, across searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from sqlalchemy import CTE, Connection, Integer, literal, select

from eatnas_db.domain.final_weights import describe_source
from eatnas_db.domain.states import RETRAINED, Origin
from eatnas_db.queries.candidate_ids import require_candidate
from eatnas_db.queries.mutations import describe_change
from eatnas_db.queries.predictions import explain_proposal, list_source_names, maximizes_per_second
from eatnas_db.schema.candidates import candidate, mutation, prediction
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class LineageEntry:
    """An ancestor or a descendant; `generation` is its distance in generations from the queried candidate.

    `gain` is the candidate's fitness minus the fitness of its parent. `gain` is None if the candidate and its parent
    belong to different searches, ended on different rungs, or have no fitness. `rung` is its last rung; 0 in a search
    without rungs.
    """

    id: int
    search: str
    parent_id: int | None
    generation: int
    birth: int
    origin: str
    state: str
    fitness: float | None
    gain: float | None
    changes: tuple[str, ...]
    code: str
    share_inherited: float | None = None
    lineage_epochs: int | None = None
    reason: str | None = None
    """The reason why the model proposed the candidate; None if evolution decided the birth."""
    rung: int = 0
    weights_from: str | None = None
    """The final model, as SEARCH/CANDIDATE, whose weights this final model starts from."""


@dataclass(frozen=True, slots=True)
class ScoredChild:
    """A scored child of a candidate in a lineage. The child itself is not in the lineage."""

    id: int
    parent_id: int
    birth: int
    origin: str
    fitness: float
    code: str


class ScoredBirth(NamedTuple):
    """The search, the birth and the fitness of a scored candidate."""

    search: str
    birth: int
    fitness: float


class _FamilyRow(NamedTuple):
    """A candidate and one of its mutations, if it has any."""

    generation: int
    search_id: int
    birth: int
    ordinal: int | None
    id: int
    parent_id: int | None
    origin: str
    state: str
    fitness: float | None
    code: str
    share_inherited: float | None
    lineage_epochs: int | None
    rung: int
    block: int | None
    primitive: str | None
    before: str | None
    after: str | None
    low: float | None
    middle: float | None
    high: float | None
    scores: int | None
    slopes: list[float] | None

    def explain(self, sources: Sequence[str], spec: Mapping[str, Any]) -> str | None:
        if self.low is None or self.middle is None or self.high is None or self.scores is None:
            return None
        slopes = tuple(zip(sources, self.slopes or (), strict=False))
        per_second = maximizes_per_second(spec)
        return explain_proposal(self.low, self.middle, self.high, self.scores, slopes, per_second=per_second)

    @property
    def change(self) -> str | None:
        if self.block is None or self.primitive is None or self.before is None or self.after is None:
            return None
        return describe_change(self.block, self.primitive, self.before, self.after)


def get_lineage(connection: Connection, candidate_id: int) -> tuple[LineageEntry, ...]:
    """Return the candidate and all its ancestors, the candidate first. Raises `NotFoundError`."""
    return _list_family(connection, candidate_id, _family_ids(candidate_id, upward=True))[::-1]


def list_descendants(connection: Connection, candidate_id: int) -> tuple[LineageEntry, ...]:
    """Return the candidate and all its descendants in order of generation and birth. Raises `NotFoundError`."""
    return _list_family(connection, candidate_id, _family_ids(candidate_id, upward=False))


def list_scored_children(connection: Connection, lineage: Sequence[int]) -> list[ScoredChild]:
    """Return the scored children of the candidates in a lineage, without children that are in the lineage.

    Re-evaluations and final models are not children.
    """
    query = (
        select(*(candidate.c[field.name] for field in fields(ScoredChild)))
        .where(
            candidate.c.parent_id.in_(lineage),
            candidate.c.id.not_in(lineage),
            candidate.c.fitness.is_not(None),
            candidate.c.origin.not_in(RETRAINED),
        )
        .order_by(candidate.c.id)
    )
    return [ScoredChild(*row) for row in connection.execute(query)]


def list_scored_births(connection: Connection, names: Iterable[str]) -> list[ScoredBirth]:
    """Return the fitness of all scored candidates of these searches except retrainings, in order of birth."""
    query = (
        select(search.c.name, candidate.c.birth, candidate.c.fitness)
        .join(candidate, candidate.c.search_id == search.c.id)
        .where(
            search.c.name.in_(tuple(names)),
            candidate.c.fitness.is_not(None),
            candidate.c.origin.not_in(RETRAINED),
        )
        .order_by(search.c.id, candidate.c.birth)
    )
    return [ScoredBirth(*row) for row in connection.execute(query)]


def _family_ids(candidate_id: int, *, upward: bool) -> CTE:
    """Select the ids of a family; ancestors have negative generations, so that parents sort before their children."""
    family = (
        select(candidate.c.id, candidate.c.parent_id, literal(0, Integer).label("generation"))
        .where(candidate.c.id == candidate_id)
        .cte("family", recursive=True)
    )
    is_related = candidate.c.id == family.c.parent_id if upward else candidate.c.parent_id == family.c.id
    generation = family.c.generation + (-1 if upward else 1)
    return family.union_all(select(candidate.c.id, candidate.c.parent_id, generation).join(family, is_related))


def _list_family(connection: Connection, candidate_id: int, family: CTE) -> tuple[LineageEntry, ...]:
    require_candidate(connection, candidate_id)
    query = (
        select(
            family.c.generation,
            candidate.c.search_id,
            candidate.c.birth,
            mutation.c.ordinal,
            candidate.c.id,
            candidate.c.parent_id,
            candidate.c.origin,
            candidate.c.state,
            candidate.c.fitness,
            candidate.c.code,
            candidate.c.share_inherited,
            candidate.c.lineage_epochs,
            candidate.c.rung,
            mutation.c.block,
            mutation.c.primitive,
            mutation.c.before,
            mutation.c.after,
            prediction.c.low,
            prediction.c.middle,
            prediction.c.high,
            prediction.c.scores,
            prediction.c.slopes,
        )
        .select_from(family)
        .join(candidate, candidate.c.id == family.c.id)
        .outerjoin(mutation, mutation.c.candidate_id == candidate.c.id)
        .outerjoin(prediction, prediction.c.candidate_id == candidate.c.id)
    )
    # Read the whole lineage with one statement, because a lineage can be as long as its search. The rows arrive almost
    # in order, and Python sorts such rows faster than a database.
    rows = [_FamilyRow._make(row) for row in connection.execute(query)]
    rows.sort(key=itemgetter(0, 1, 2, 3))
    return tuple(_to_entries(connection, rows))


def _to_entries(connection: Connection, rows: Sequence[_FamilyRow]) -> Iterable[LineageEntry]:
    """Yield an entry for each candidate; parents come before their children."""
    names = {row.id: row.name for row in connection.execute(select(search.c.id, search.c.name))}
    described = {row.search_id for row in rows if row.origin == Origin.FINAL or row.low is not None}
    specs: dict[int, Any] = {}
    if described:
        with_spec = select(search.c.id, search.c.spec).where(search.c.id.in_(described))
        specs = {row.id: row.spec for row in connection.execute(with_spec)}
    measured: dict[int | None, tuple[tuple[int, int] | None, float | None]] = {None: (None, None)}
    with_sources = {row.search_id for row in rows if row.slopes}
    sources = {search_id: list_source_names(connection, search_id) for search_id in with_sources}
    oldest_parent = rows[0].parent_id
    if oldest_parent is not None:
        parent = select(candidate.c.search_id, candidate.c.rung, candidate.c.fitness).where(
            candidate.c.id == oldest_parent
        )
        search_id, rung, fitness = connection.execute(parent).one()
        measured[oldest_parent] = ((search_id, rung), fitness)
    for _, group in groupby(rows, key=attrgetter("id")):
        mutations = tuple(group)
        row = mutations[0]
        parent_conditions, parent_fitness = measured[row.parent_id]
        conditions = (row.search_id, row.rung)
        measured[row.id] = (conditions, row.fitness)
        # Fitness values of different tasks, recipes or rungs are not comparable.
        gain = None
        if parent_conditions == conditions and row.fitness is not None and parent_fitness is not None:
            gain = row.fitness - parent_fitness
        yield LineageEntry(
            id=row.id,
            search=names[row.search_id],
            parent_id=row.parent_id,
            generation=abs(row.generation),
            birth=row.birth,
            origin=row.origin,
            state=row.state,
            fitness=row.fitness,
            gain=gain,
            changes=tuple(row.change for row in mutations if row.change is not None),
            code=row.code,
            share_inherited=row.share_inherited,
            lineage_epochs=row.lineage_epochs,
            reason=row.explain(sources.get(row.search_id, ()), specs.get(row.search_id, {})),
            rung=row.rung,
            weights_from=describe_source(specs.get(row.search_id, {}), row.origin, row.code),
        )
