"""Start a search from the best of another one: elastic transfer."""

from __future__ import annotations

from sqlalchemy import Connection

from eatnas_db import events
from eatnas_db.candidates import insert_candidate
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import (
    Birth,
)
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.states import Origin, SearchKind
from eatnas_db.domain.transfer import SurvivorSelection, select_survivors
from eatnas_db.errors import ConflictError
from eatnas_db.queries.ranking import list_living
from eatnas_db.queries.searches import SearchRecord, get_open_yardstick, get_search
from eatnas_db.searches.advance import breed_births
from eatnas_db.searches.basic_architecture import choose_basic, express_basic, require_blocks, require_population
from eatnas_db.searches.create import insert_search
from eatnas_db.searches.locking import lock_search


def create_transfer(
    connection: Connection,
    source: str,
    spec: SearchSpec,
    *,
    candidate_id: int | None = None,
    force: bool = False,
    task: Task,
    data_digest: str,
    slots: int,
    now: float,
) -> int:
    """Insert a search whose initial population is the best of `source`, or the candidate given, and perturbations.

    Under `transfer.start: survivors` it is the best and those who live in `source`; perturbations fill it up.
    `force`: the source need not be finished. Raises `NotFoundError`, `ConflictError`, `SpaceExhaustedError`,
    `InvalidArchitectureError`; then nothing is written.
    """
    if spec.transfer.basic is not None:
        raise ConflictError(f"the basic architecture comes from {source!r}: leave transfer.basic out of the spec")
    old = get_search(connection, source)
    measuring = _require_source(connection, old, force)
    basic_id, code, chosen = choose_basic(connection, old, candidate_id)
    space = Space(spec.macro(), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    space.require_feasible()
    ranked = [(basic_id, code)]
    selection = SurvivorSelection((), 0, 0)
    if spec.transfer.start == "survivors":
        ranked += [(one.id, one.code) for one in list_living(connection, old.id) if one.id != basic_id]
        architectures = [Architecture.parse(each) for _, each in ranked]
        require_blocks(architectures[0], f"candidate {basic_id}", space)
        selection = select_survivors(architectures, space, min(spec.evolution.population, spec.budget.candidates))
        if selection.survivors and selection.survivors[0].place > 0 and candidate_id is None:
            basic_id, code = ranked[selection.survivors[0].place]
            chosen = "the best of its population that this task has room for"
    if measuring is not None and candidate_id is None:
        chosen += f"; {measuring.name!r} is not finished"
    basic = express_basic(Architecture.parse(code), f"candidate {basic_id}", spec, space)
    search_id = insert_search(connection, spec, space, data_digest, slots, now, old.id, basic_id, str(basic))
    detail = {"source": source, "candidate": basic_id, "code": str(basic), "chosen": chosen}
    events.record_event(connection, now, "transferred", search_id, detail=detail)
    for number, survivor in enumerate(selection.survivors):
        origin = Origin.SURVIVOR if number else Origin.BASIC
        insert_candidate(
            connection, search_id, Birth(number, origin, survivor.proposal, ranked[survivor.place][0]), now
        )
    if selection.survivors:
        counts = {"over_limits": selection.over_limits, "same_network": selection.same_network}
        detail = {"source": source, "taken": len(selection.survivors), **counts}
        events.record_event(connection, now, "survivors_taken", search_id, detail=detail)
    breed_births(connection, search_id, now)
    require_population(lock_search(connection, search_id))
    return search_id


def _require_source(connection: Connection, source: SearchRecord, force: bool) -> SearchRecord | None:
    """Refuse a search that is not to be transferred from; its yardstick, where that is not finished."""
    name = source.name
    if source.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: transfer from that one")
    if source.finished_at is None and not force:
        raise ConflictError(f"search {name!r} is not finished ({source.status}); --force transfers what it has")
    measuring = get_open_yardstick(connection, source.id)
    if measuring is not None and not force:
        raise ConflictError(
            f"{measuring.name!r}, which says what is best in {name!r}, is not finished; run it first, or --force"
        )
    return measuring
