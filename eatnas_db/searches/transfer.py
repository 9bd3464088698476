"""Elastic transfer: start a search from the best candidates of another search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from eatnas_db.candidates import insert_candidates
from eatnas_db.domain.arithmetic import arithmetic_of
from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.evolution import Birth, count_model_births
from eatnas_db.domain.macro import Task
from eatnas_db.domain.recipe import INHERITED
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.states import Origin, SearchKind
from eatnas_db.domain.transfer import SurvivorSelection, select_survivors
from eatnas_db.errors import ConflictError
from eatnas_db.events import record_event
from eatnas_db.queries.ranking import list_living
from eatnas_db.queries.searches import SearchRecord, get_open_reevaluation, get_search
from eatnas_db.searches.advance import breed_births
from eatnas_db.searches.basic_architecture import (
    BasicChoice,
    adapt_architecture,
    choose_basic_candidate,
    parse_code,
    require_block_count,
    require_full_population,
)
from eatnas_db.searches.create import insert_search, lag_of
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.search_space import feasible_space
from eatnas_db.searches.transfer_model import insert_sources, list_sources, rank_sources

if TYPE_CHECKING:  # this import loads SciPy
    from eatnas_db.transfer_sources import FittedSource


def create_transfer(
    connection: Connection,
    source_name: str,
    spec: SearchSpec,
    *,
    candidate_id: int | None = None,
    force: bool = False,
    task: Task,
    data_digest: str,
    data_state: DataState | None = None,
    slots: int,
    now: float,
    fitted: Sequence[FittedSource] | None = None,
) -> int:
    """Insert a search whose initial population comes from another search, and return its id.

    The population grows from `candidate_id` of the source or its best candidate; with `transfer.start: survivors`, the
    new population begins with the source's population. `force` permits a source that is not finished. `fitted` are the
    models of the sources with `transfer.start: model` (`fitted_sources.write_with_sources`); if `fitted` is None, this
    transaction fits the models. Raises `NotFoundError`, `ConflictError`, `SpaceExhaustedError`,
    `InvalidArchitectureError` or `SourceChangedError`; the caller then rolls back.
    """
    _require_no_basic_architecture(spec, source_name)
    source = get_search(connection, source_name)
    open_reevaluation = _require_source(connection, source, force)
    _require_weights(spec, source)
    basic = choose_basic_candidate(connection, source, candidate_id)
    space = feasible_space(spec, task)
    sources = list_sources(connection, source, spec, space)
    for further in sources[1:]:
        _require_source(connection, further, force)
        _require_weights(spec, further)
    ranking, selection = _select_survivors(connection, sources or [source], basic, spec, space, slots=slots)
    reason = basic.reason
    if candidate_id is None:
        basic = ranking[selection.survivors[0].place] if selection.survivors else basic
        reason = basic.reason + (f"; {open_reevaluation.name!r} is not finished" if open_reevaluation else "")
    adapted = adapt_architecture(
        parse_code(basic.code, f"candidate {basic.candidate_id}", space), f"candidate {basic.candidate_id}", spec, space
    )
    search_id = insert_search(
        connection,
        spec,
        space,
        data_digest=data_digest,
        data_state=data_state,
        slots=slots,
        now=now,
        source_id=source.id,
        basic_id=basic.candidate_id,
        basic_code=str(adapted),
    )
    detail = {"source": source.name, "candidate": basic.candidate_id, "code": str(adapted), "chosen": reason}
    record_event(connection, now, "transferred", search_id=search_id, detail=detail)
    taken = len(selection.survivors)
    if sources:
        insert_sources(connection, search_id, sources, space, fitted=fitted, taken=taken, now=now)
    if taken:
        _insert_survivors(connection, search_id, ranking, selection, now)
    if taken and not sources:
        counts = {"taken": taken, "over_limits": selection.over_limits, "same_network": selection.same_network}
        record_event(connection, now, "survivors_taken", search_id=search_id, detail={"source": source.name, **counts})
    breed_births(connection, search_id, now)
    if not sources:
        require_full_population(lock_search(connection, search_id))
    return search_id


def _require_no_basic_architecture(spec: SearchSpec, source_name: str) -> None:
    if spec.transfer.basic is not None:
        raise ConflictError(
            f"transfer.basic cannot be set: the basic architecture comes from search {source_name!r}; remove the key"
        )


def _require_weights(spec: SearchSpec, source: SearchRecord) -> None:
    """Raise `ConflictError` if the new search cannot inherit weights: the source has no weights, or used another
    arithmetic.

    With another arithmetic, a parent whose weights are lost could not be trained again with a bit-identical result.
    """
    if spec.transfer.weights == INHERITED and source.kind == SearchKind.IMPORTED:
        raise ConflictError(
            f"the scores of search {source.name!r} were imported, so there are no weights to inherit; use "
            "`transfer.weights: fresh`"
        )
    trained = arithmetic_of(source.spec)
    if spec.transfer.weights == INHERITED and spec.training.arithmetic != trained:
        raise ConflictError(
            f"the weights of search {source.name!r} were trained with {trained} arithmetic and cannot be inherited "
            f"with `training.arithmetic: {spec.training.arithmetic}`; set it to {trained}, or use `transfer.weights: "
            "fresh`"
        )


def _select_survivors(
    connection: Connection,
    sources: Sequence[SearchRecord],
    basic: BasicChoice,
    spec: SearchSpec,
    space: Space,
    *,
    slots: int,
) -> tuple[list[BasicChoice], SurvivorSelection]:
    """Rank the source's population or the best candidates of all sources, and select the survivors.

    The basic candidate comes first. Return the ranking and the selection. The selection is empty with
    `transfer.start: perturbations`.
    """
    if spec.transfer.start == "perturbations":
        return [basic], SurvivorSelection((), 0, 0)
    source, limit = sources[0], spec.evolution.population
    if spec.transfer.start == "model":
        limit, _ = count_model_births(limit, lag_of(spec, slots))
    require_block_count(
        parse_code(basic.code, f"candidate {basic.candidate_id}", space), f"candidate {basic.candidate_id}", space
    )
    if spec.transfer.start == "model":
        others = rank_sources(connection, sources)
    else:
        reason = "the best of its population within the limits of this task"
        others = [BasicChoice(member.id, member.code, reason) for member in list_living(connection, source.id)]
    ranking = [basic, *(choice for choice in others if choice.candidate_id != basic.candidate_id)]
    architectures = [parse_code(choice.code, f"candidate {choice.candidate_id}", space) for choice in ranking]
    selection = select_survivors(architectures, space, limit)
    if len(selection.survivors) > spec.budget.candidates:
        # Otherwise, extending the search would add perturbations, where a larger initial budget would have added
        # survivors.
        noun = "survivors" if spec.transfer.start == "survivors" else "candidates"
        raise ConflictError(
            f"budget.candidates is {spec.budget.candidates}, but {len(selection.survivors)} {noun} of search "
            f"{source.name!r} are carried over; raise it to at least {len(selection.survivors)}, or lower "
            "evolution.population"
        )
    return ranking, selection


def _insert_survivors(
    connection: Connection,
    search_id: int,
    ranking: Sequence[BasicChoice],
    selection: SurvivorSelection,
    now: float,
) -> None:
    """Insert the survivors of a ranking as the first births, beginning with the basic architecture."""
    births = [
        Birth(
            number,
            Origin.SURVIVOR if number else Origin.BASIC,
            survivor.proposal,
            parent_id=ranking[survivor.place].candidate_id,
        )
        for number, survivor in enumerate(selection.survivors)
    ]
    insert_candidates(connection, search_id, births, now)


def _require_source(connection: Connection, source: SearchRecord, force: bool) -> SearchRecord | None:
    """Raise `ConflictError` if a search cannot be a source. Return the unfinished re-evaluation of the search, or
    None.
    """
    if source.kind not in (SearchKind.EVOLUTION, SearchKind.IMPORTED):
        raise ConflictError(
            f"search {source.name!r} cannot be transferred: it measures candidates of another search; "
            "transfer from that search instead"
        )
    if source.finished_at is None and not force:
        raise ConflictError(
            f"search {source.name!r} is not finished ({source.status}); "
            "wait for it, or use --force to transfer its current best"
        )
    reevaluation = get_open_reevaluation(connection, source.id)
    if reevaluation is not None and not force:
        raise ConflictError(
            f"{reevaluation.name!r}, which decides the ranking of {source.name!r}, is not finished; "
            "run it first, or use --force"
        )
    return reevaluation
