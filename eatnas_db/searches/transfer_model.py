"""For `transfer.start: model`, check the sources and store the scores that the model will know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, select

from eatnas_db.domain.architecture import PrimitiveValue
from eatnas_db.domain.objective import Objective
from eatnas_db.domain.space import Space
from eatnas_db.errors import CollisionError, ConflictError
from eatnas_db.events import record_event
from eatnas_db.queries.paging import Page
from eatnas_db.queries.ranking import rank_candidates
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.searches.basic_architecture import BasicChoice
from eatnas_db.spaces import read_space

if TYPE_CHECKING:  # these imports load pydantic and SciPy
    from eatnas_db.domain.spec import SearchSpec
    from eatnas_db.transfer_sources import FittedSource

MIN_SOURCE_SCORES: Final = 4
"""A source with fewer scores has no model."""
MAX_STARTS: Final = 300
"""The number of best candidates of each source from which the starts are selected."""


class SourceChangedError(CollisionError):
    """The scores of a source have changed between the fit of its model and the transaction that stores the model."""


def list_sources(connection: Connection, source: SearchRecord, spec: SearchSpec, space: Space) -> list[SearchRecord]:
    """Return the sources of a search with `transfer.start: model`, or an empty list for any other start.

    Raises `NotFoundError`, or `ConflictError` if a source cannot be used.
    """
    if spec.transfer.start != "model":
        return []
    if source.name in spec.transfer.sources:
        raise ConflictError(
            f"search {source.name!r} is already the source of this transfer; remove it from transfer.sources"
        )
    sources = [source, *(get_search(connection, name) for name in spec.transfer.sources)]
    for record in sources:
        _require_same_objective(record, spec)
        _require_same_primitives(record, space)
        _require_scores(connection, record)
    return sources


def rank_sources(connection: Connection, sources: Sequence[SearchRecord]) -> list[BasicChoice]:
    """Return the best candidates of all sources in turn: the best of each, then the second of each, and so on."""
    rankings = [rank_candidates(connection, source.id, Page(limit=MAX_STARTS)) for source in sources]
    return [
        BasicChoice(ranked.id, ranked.code, f"the best of {source.name} within the limits of this task")
        for places in zip_longest(*rankings)
        for source, ranked in zip(sources, places, strict=True)
        if ranked is not None
    ]


def insert_sources(
    connection: Connection,
    search_id: int,
    sources: Sequence[SearchRecord],
    space: Space,
    *,
    fitted: Sequence[FittedSource] | None,
    taken: int,
    now: float,
) -> None:
    """Store the sources of a new search's model, each with the births that its model knows.

    `fitted` are models that were fitted before the transaction; if `fitted` is None, fit the models here. Raises
    `SourceChangedError` if the scores have changed since the fit.
    """
    # Import the model only here, because it loads SciPy.
    from eatnas_db.scored_births import list_scored
    from eatnas_db.transfer_sources import fit_scores, is_current, store_sources

    if fitted is None:
        chosen = [
            fit_scores(source.id, source.settled, list_scored(connection, source.id, source.settled), space)
            for source in sources
        ]
    else:
        current = {one.source.source_id: one for one in fitted if is_current(connection, one)}
        if changed := [source.name for source in sources if source.id not in current]:
            raise SourceChangedError(
                f"the scores of search {changed[0]!r} have changed while its model was computed; try again"
            )
        chosen = [current[source.id] for source in sources]
    store_sources(connection, search_id, chosen)
    detail = {
        "sources": ", ".join(source.name for source in sources),
        "scores": sum(len(one.source.rows) for one in chosen),
        "taken": taken,
    }
    record_event(connection, now, "sources_modelled", search_id=search_id, detail=detail)


def _require_same_objective(source: SearchRecord, spec: SearchSpec) -> None:
    if source.objectives:
        raise ConflictError(
            f"search {source.name!r} has several objectives, but a model predicts one; choose a source with one "
            "objective, or use `transfer.start: survivors`"
        )
    theirs, ours = source.objective, Objective.from_spec(spec.model_dump(mode="json"))
    if (theirs.metric, theirs.direction) != (ours.metric, ours.direction):
        raise ConflictError(
            f"search {source.name!r} has the objective {theirs.direction} {theirs.metric}, but this spec has "
            f"{ours.direction} {ours.metric}; choose a source with the same objective"
        )


def _require_same_primitives(source: SearchRecord, space: Space) -> None:
    theirs, ours = read_space(source.macro).blocks, space.macro.blocks
    if len(theirs) != len(ours):
        raise ConflictError(
            f"the number of blocks is {len(theirs)} in search {source.name!r} and {len(ours)} in space "
            f"{space.macro.name}; choose a source with the same number of blocks"
        )
    for number, (before, after) in enumerate(zip(theirs, ours, strict=True), 1):
        if (difference := describe_difference(before, after)) is not None:
            raise ConflictError(
                f"search {source.name!r} and space {space.macro.name} have different primitives: in block "
                f"{number}, {difference}; choose a source with the same primitives, or use `transfer.start: survivors`"
            )


def describe_difference(before: Mapping[str, Sequence[Any]], after: Mapping[str, Sequence[Any]]) -> str | None:
    """Describe the first primitive whose values differ between the source and the new search; return None if all values
    are equal.
    """
    for primitive in dict.fromkeys([*before, *after]):
        theirs, ours = (list(blocks.get(primitive, ())) for blocks in (before, after))
        if theirs != ours:
            return (
                f"{primitive} is one of {_describe_values(theirs)} in the source, but one of {_describe_values(ours)} "
                "in the new search"
            )
    return None


def _describe_values(values: Sequence[PrimitiveValue]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _require_scores(connection: Connection, source: SearchRecord) -> None:
    """Raise `ConflictError` unless the source has enough scores for a model."""
    scored = select(candidate.c.fitness).where(
        candidate.c.search_id == source.id, candidate.c.birth < source.settled, candidate.c.fitness.is_not(None)
    )
    found = len(connection.execute(scored.limit(MIN_SOURCE_SCORES)).all())
    if found < MIN_SOURCE_SCORES:
        raise ConflictError(
            f"search {source.name!r} has {found} scored candidates, but a model needs at least {MIN_SOURCE_SCORES}; "
            "train more of its candidates, or choose another source"
        )
