"""Elastic transfer: start a search from the best candidates of another search."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from eatnas_db.candidates import insert_candidate
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.states import Origin, SearchKind
from eatnas_db.domain.transfer import SurvivorSelection, select_survivors
from eatnas_db.errors import ConflictError
from eatnas_db.events import record_event
from eatnas_db.queries.ranking import list_living
from eatnas_db.queries.searches import SearchRecord, get_open_yardstick, get_search
from eatnas_db.searches.advance import breed_births
from eatnas_db.searches.basic_architecture import (
    adapt_architecture,
    choose_basic_candidate,
    require_block_count,
    require_full_population,
)
from eatnas_db.searches.create import insert_search
from eatnas_db.searches.locking import lock_search


def create_transfer(
    connection: Connection,
    source_name: str,
    spec: SearchSpec,
    *,
    candidate_id: int | None = None,
    force: bool = False,
    task: Task,
    data_digest: str,
    slots: int,
    now: float,
) -> int:
    """Insert a search whose initial population comes from another search, and return its id.

    The basic architecture is `candidate_id` of the source or its best candidate. The initial population is the basic
    architecture with perturbations or, with `transfer.start: survivors`, the source's population filled up with
    perturbations. `force` permits a source that is not finished. Raises `NotFoundError`, `ConflictError`,
    `SpaceExhaustedError` or `InvalidArchitectureError`; the caller then rolls back.
    """
    if spec.transfer.basic is not None:
        raise ConflictError(
            f"transfer.basic cannot be set: the basic architecture comes from search {source_name!r}; remove the key"
        )
    source = get_search(connection, source_name)
    open_yardstick = _require_source(connection, source, force)
    basic_id, code, reason = choose_basic_candidate(connection, source, candidate_id)
    space = Space(spec.macro(), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    space.require_feasible()
    ranked = [(basic_id, code)]
    selection = SurvivorSelection((), 0, 0)
    if spec.transfer.start == "survivors":
        living = list_living(connection, source.id)
        ranked += [(member.id, member.code) for member in living if member.id != basic_id]
        architectures = [Architecture.parse(text) for _, text in ranked]
        require_block_count(architectures[0], f"candidate {basic_id}", space)
        selection = select_survivors(architectures, space, min(spec.evolution.population, spec.budget.candidates))
        if selection.survivors and selection.survivors[0].place > 0 and candidate_id is None:
            basic_id, code = ranked[selection.survivors[0].place]
            reason = "the best of its population within the limits of this task"
    if open_yardstick is not None and candidate_id is None:
        reason += f"; {open_yardstick.name!r} is not finished"
    basic = adapt_architecture(Architecture.parse(code), f"candidate {basic_id}", spec, space)
    search_id = insert_search(
        connection,
        spec,
        space,
        data_digest=data_digest,
        slots=slots,
        now=now,
        source_id=source.id,
        basic_id=basic_id,
        basic_code=str(basic),
    )
    detail = {"source": source.name, "candidate": basic_id, "code": str(basic), "chosen": reason}
    record_event(connection, now, "transferred", search_id=search_id, detail=detail)
    if selection.survivors:
        parent_ids = [candidate_id for candidate_id, _ in ranked]
        _insert_survivors(connection, search_id, selection, parent_ids, source_name=source.name, now=now)
    breed_births(connection, search_id, now)
    require_full_population(lock_search(connection, search_id))
    return search_id


def _insert_survivors(
    connection: Connection,
    search_id: int,
    selection: SurvivorSelection,
    parent_ids: Sequence[int],
    *,
    source_name: str,
    now: float,
) -> None:
    """Insert survivors as the first births; `parent_ids` are the candidates of the ranking they were selected from."""
    for number, survivor in enumerate(selection.survivors):
        origin = Origin.SURVIVOR if number else Origin.BASIC
        birth = Birth(number, origin, survivor.proposal, parent_id=parent_ids[survivor.place])
        insert_candidate(connection, search_id, birth, now)
    detail = {
        "source": source_name,
        "taken": len(selection.survivors),
        "over_limits": selection.over_limits,
        "same_network": selection.same_network,
    }
    record_event(connection, now, "survivors_taken", search_id=search_id, detail=detail)


def _require_source(connection: Connection, source: SearchRecord, force: bool) -> SearchRecord | None:
    """Raise `ConflictError` if a search cannot be transferred from; return its yardstick if that is unfinished."""
    if source.kind != SearchKind.EVOLUTION:
        raise ConflictError(
            f"search {source.name!r} cannot be transferred: it measures candidates of another search; "
            "transfer from that search instead"
        )
    if source.finished_at is None and not force:
        raise ConflictError(
            f"search {source.name!r} is not finished ({source.status}); "
            "wait for it, or use --force to transfer its current best"
        )
    yardstick = get_open_yardstick(connection, source.id)
    if yardstick is not None and not force:
        raise ConflictError(
            f"{yardstick.name!r}, which decides what is best in {source.name!r}, is not finished; "
            "run it first, or use --force"
        )
    return yardstick
