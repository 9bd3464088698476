"""Create a search."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection

from eatnas_db.database.dialects import insert_or_ignore
from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.evolution import count_initial_births, count_model_births
from eatnas_db.domain.macro import Task
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.events import record_event
from eatnas_db.queries.searches import measure_device_seconds
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import breed_births
from eatnas_db.searches.basic_architecture import adapt_architecture, parse_code, require_full_population
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.search_space import feasible_space
from eatnas_db.spaces import store_space

MIN_DEFAULT_LAG: Final = 4


def create_search(
    connection: Connection,
    spec: SearchSpec,
    *,
    task: Task,
    data_digest: str,
    data_state: DataState | None = None,
    slots: int,
    now: float,
) -> int:
    """Insert a search with its initial population and return its id.

    Workers compare the images that they load with `data_state`. Raises `ConflictError` if the name is taken, and
    `SpaceExhaustedError` if the limits leave too few networks.
    """
    if spec.transfer.start == "model":
        raise ConflictError(
            "`transfer.start: model` needs the scores of another search; use `eatnas-db transfer SOURCE SPEC.yaml`"
        )
    space = feasible_space(spec, task)
    basic_code = None
    if spec.transfer.basic is not None:
        basic = adapt_architecture(
            parse_code(spec.transfer.basic, "transfer.basic", space), "transfer.basic", spec, space
        )
        basic_code = str(basic)
    search_id = insert_search(
        connection,
        spec,
        space,
        data_digest=data_digest,
        data_state=data_state,
        slots=slots,
        now=now,
        basic_code=basic_code,
    )
    record_event(connection, now, "created", search_id=search_id)
    breed_births(connection, search_id, now)
    if basic_code is not None:
        require_full_population(lock_search(connection, search_id))
    return search_id


def insert_search(
    connection: Connection,
    spec: SearchSpec,
    space: Space,
    *,
    data_digest: str,
    data_state: DataState | None = None,
    slots: int,
    now: float,
    kind: SearchKind = SearchKind.EVOLUTION,
    source_id: int | None = None,
    basic_id: int | None = None,
    basic_code: str | None = None,
) -> int:
    """Insert the row of a search and return its id. Raises `ConflictError` if its name is taken."""
    values = {
        "name": spec.name,
        "kind": kind,
        "source_id": source_id,
        "source_seconds": None if source_id is None else measure_device_seconds(connection, source_id),
        "basic_id": basic_id,
        "basic_code": basic_code,
        "seed": spec.seed,
        "priority": spec.priority,
        "spec": spec.model_dump(mode="json"),
        "macro": store_space(space.macro),
        "task": asdict(space.task),
        "data_digest": data_digest,
        "data_state": None if data_state is None else data_state.to_json(),
        "population": spec.evolution.population,
        "initial_births": _count_initial_births(spec, slots, from_scratch=basic_code is None),
        "lag": lag_of(spec, slots),
        "budget_candidates": spec.budget.candidates,
        "budget_device_seconds": spec.budget.device_hours and spec.budget.device_hours * 3600,
        "wish": DesiredState.RUN,
        "created_at": now,
    }
    # The insert itself detects a taken name, so no other program can take the name between a check and the insert.
    search_id = connection.execute(insert_or_ignore(search).values(values).returning(search.c.id)).scalar()
    if search_id is None:
        raise ConflictError(f"a search named {spec.name!r} already exists; choose another name")
    return int(search_id)


def _count_initial_births(spec: SearchSpec, slots: int, *, from_scratch: bool) -> int:
    population = spec.evolution.population
    if spec.transfer.start == "model":
        return sum(count_model_births(population, lag_of(spec, slots)))
    return count_initial_births(population, guided=spec.evolution.births == "guided", from_scratch=from_scratch)


def lag_of(spec: SearchSpec, slots: int) -> int:
    """Return the lag of the spec.

    The default is twice the number of slots, but at least `MIN_DEFAULT_LAG`, and small enough that the first tournament
    has all its members.
    """
    if spec.evolution.lag is not None:
        return spec.evolution.lag
    population = spec.evolution.population
    complete_tournament = population - spec.evolution.tournament + 1
    return min(max(MIN_DEFAULT_LAG, min(2 * slots, complete_tournament)), population)
