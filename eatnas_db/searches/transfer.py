"""Elastic transfer: start a search from the best candidates of another search."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from eatnas_db.candidates import insert_candidates
from eatnas_db.domain.arithmetic import arithmetic_of
from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.evolution import Birth
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
from eatnas_db.searches.create import insert_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.search_space import feasible_space


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
) -> int:
    """Insert a search whose initial population comes from another search, and return its id.

    The population grows from `candidate_id` of the source or its best candidate; with `transfer.start: survivors` it
    begins with the source's population. `force` permits a source that is not finished. Raises `NotFoundError`,
    `ConflictError`, `SpaceExhaustedError` or `InvalidArchitectureError`; the caller then rolls back.
    """
    _require_no_basic_architecture(spec, source_name)
    source = get_search(connection, source_name)
    open_reevaluation = _require_source(connection, source, force)
    _require_weights(spec, source)
    basic = choose_basic_candidate(connection, source, candidate_id)
    space = feasible_space(spec, task)
    ranking, selection = _select_survivors(connection, source, basic, spec, space)
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
    if selection.survivors:
        _insert_survivors(connection, search_id, ranking, selection, source_name=source.name, now=now)
    breed_births(connection, search_id, now)
    require_full_population(lock_search(connection, search_id))
    return search_id


def _require_no_basic_architecture(spec: SearchSpec, source_name: str) -> None:
    if spec.transfer.basic is not None:
        raise ConflictError(
            f"transfer.basic cannot be set: the basic architecture comes from search {source_name!r}; remove the key"
        )


def _require_weights(spec: SearchSpec, source: SearchRecord) -> None:
    """Raise `ConflictError` if weights are to be inherited and the source has none, or those of another arithmetic.

    In another arithmetic, a lost parent could not be replayed.
    """
    if spec.transfer.weights == INHERITED and source.kind == SearchKind.IMPORTED:
        raise ConflictError(
            f"the scores of search {source.name!r} were imported, so there are no weights to inherit; use "
            "transfer.weights: fresh"
        )
    trained = arithmetic_of(source.spec)
    if spec.transfer.weights == INHERITED and spec.training.arithmetic != trained:
        raise ConflictError(
            f"the weights of search {source.name!r} were trained with {trained} arithmetic and cannot be inherited "
            f"with training.arithmetic: {spec.training.arithmetic}; set it to {trained}, or use transfer.weights: fresh"
        )


def _select_survivors(
    connection: Connection, source: SearchRecord, basic: BasicChoice, spec: SearchSpec, space: Space
) -> tuple[list[BasicChoice], SurvivorSelection]:
    """Rank the population of the source behind the basic candidate, and select from the ranking.

    The selection is empty unless the spec has `transfer.start: survivors`.
    """
    if spec.transfer.start != "survivors":
        return [basic], SurvivorSelection((), 0, 0)
    require_block_count(
        parse_code(basic.code, f"candidate {basic.candidate_id}", space), f"candidate {basic.candidate_id}", space
    )
    reason = "the best of its population within the limits of this task"
    others = [
        BasicChoice(member.id, member.code, reason)
        for member in list_living(connection, source.id)
        if member.id != basic.candidate_id
    ]
    ranking = [basic, *others]
    architectures = [parse_code(choice.code, f"candidate {choice.candidate_id}", space) for choice in ranking]
    selection = select_survivors(architectures, space, spec.evolution.population)
    if len(selection.survivors) > spec.budget.candidates:
        # Otherwise an extension would continue with perturbations where a larger budget has survivors.
        raise ConflictError(
            f"budget.candidates is {spec.budget.candidates}, but {len(selection.survivors)} survivors of search "
            f"{source.name!r} are carried over; raise it to at least {len(selection.survivors)}, or lower "
            "evolution.population"
        )
    return ranking, selection


def _insert_survivors(
    connection: Connection,
    search_id: int,
    ranking: Sequence[BasicChoice],
    selection: SurvivorSelection,
    *,
    source_name: str,
    now: float,
) -> None:
    """Insert the survivors of a ranking as the first births; the first of them is the basic architecture."""
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
    detail = {
        "source": source_name,
        "taken": len(selection.survivors),
        "over_limits": selection.over_limits,
        "same_network": selection.same_network,
    }
    record_event(connection, now, "survivors_taken", search_id=search_id, detail=detail)


def _require_source(connection: Connection, source: SearchRecord, force: bool) -> SearchRecord | None:
    """Raise `ConflictError` if a search cannot be transferred from; return its re-evaluation if that is unfinished."""
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
