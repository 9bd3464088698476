"""Create a search."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, exists, insert, select

from eatnas_db import events
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import breed_births
from eatnas_db.searches.basic_architecture import express_basic, require_population
from eatnas_db.searches.locking import lock_search

DEFAULT_LEAST_LAG: Final = 4


def create_search(
    connection: Connection,
    spec: SearchSpec,
    *,
    task: Task,
    data_digest: str,
    slots: int,
    now: float,
) -> int:
    """Insert a search and its initial population. Raises `ConflictError`, `SpaceExhaustedError`."""
    space = Space(spec.macro(), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    space.require_feasible()
    given = spec.transfer.basic
    basic = None if given is None else str(express_basic(Architecture.parse(given), "transfer.basic", spec, space))
    search_id = insert_search(connection, spec, space, data_digest, slots, now, basic_code=basic)
    events.record_event(connection, now, "created", search_id)
    breed_births(connection, search_id, now)
    if basic is not None:
        require_population(lock_search(connection, search_id))
    return search_id


def insert_search(
    connection: Connection,
    spec: SearchSpec,
    space: Space,
    data_digest: str,
    slots: int,
    now: float,
    source_id: int | None = None,
    basic_id: int | None = None,
    basic_code: str | None = None,
) -> int:
    """Insert a search's row and return its id. Raises `ConflictError` where its name is taken."""
    if connection.execute(select(exists().where(search.c.name == spec.name))).scalar():
        raise ConflictError(f"a search named {spec.name!r} is there already; choose another name")
    lag = spec.evolution.lag or _lag_for(spec, slots)
    values = {
        "name": spec.name,
        "kind": SearchKind.EVOLUTION,
        "source_id": source_id,
        "basic_id": basic_id,
        "basic_code": basic_code,
        "seed": spec.seed,
        "priority": spec.priority,
        "spec": spec.model_dump(mode="json"),
        "macro": space.macro.to_json(),
        "task": {
            "resolution": space.task.resolution,
            "channels": space.task.channels,
            "classes": space.task.classes,
        },
        "data_digest": data_digest,
        "population": spec.evolution.population,
        "lag": lag,
        "budget_candidates": spec.budget.candidates,
        "budget_device_seconds": spec.budget.device_hours and spec.budget.device_hours * 3600,
        "wish": DesiredState.RUN,
        "created_at": now,
    }
    return int(connection.execute(insert(search).values(values).returning(search.c.id)).scalar_one())


def _lag_for(spec: SearchSpec, slots: int) -> int:
    """Twice the slots, as far as the first tournament still has as many members as it asks for; and at least 4."""
    population = spec.evolution.population
    choosy = population - spec.evolution.tournament + 1
    return min(max(DEFAULT_LEAST_LAG, min(2 * slots, choosy)), population)
