"""Import scores that were measured elsewhere, as a finished search from which other searches may start."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select

from eatnas_db import transitions
from eatnas_db.candidates import MAX_BIRTHS, insert_candidates
from eatnas_db.database.batches import split_in_batches
from eatnas_db.database.engine import read_connection, write_record
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import (
    COST_METRICS,
    TEST_ACCURACY,
    VALIDATION_ACCURACY,
    Direction,
    Objective,
    require_metric_name,
)
from eatnas_db.domain.objectives import DIRECTIONS
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import ObjectiveSpec, SearchSpec, parse_spec
from eatnas_db.domain.spec_patterns import NAME_PATTERN
from eatnas_db.domain.states import Origin, SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.events import record_event
from eatnas_db.hosts import cpu_uuid, find_host, record_worker_end, record_worker_start, register_device
from eatnas_db.provenance import Provenance, store_provenance
from eatnas_db.schema.searches import search
from eatnas_db.score_files import ProgressCallback, ScoreFile, ScoreRow, digest_content, parse_scores, read_score_file
from eatnas_db.scores import ImportedScore
from eatnas_db.searches.advance import settle_births
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.create import insert_search
from eatnas_db.searches.finishing import finish
from eatnas_db.searches.locking import lock_search
from eatnas_db.settings import Settings
from eatnas_db.spaces import find_space, list_plugin_spaces

POPULATION: Final = 20
"""The maximum number of members in the population of an imported search, which consists of its best candidates."""
DEVICE: Final = "imported"
MAX_TASK_LENGTH: Final = 100
NOT_IMPORTED: Final = (TEST_ACCURACY, "test_loss", *COST_METRICS)


@dataclass(frozen=True, slots=True)
class ImportedSearch:
    """The name of the new search, the number of its candidates, and the ignored columns of the file."""

    search: str
    candidates: int
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreOrigin:
    """The task on which scores were measured, the metric, and its direction."""

    task: str
    metric: str
    direction: Direction


def make_import_spec(name: str, space: str, origin: ScoreOrigin, candidates: int) -> SearchSpec:
    """Return the spec that the record stores for imported scores. Raises `InvalidSpecError`."""
    population = max(2, min(POPULATION, candidates))
    tree: dict[str, Any] = {
        "name": name,
        "space": space,
        "data": {"name": origin.task},
        "evolution": {"population": population, "tournament": min(5, population), "removal": "worst"},
        "budget": {"candidates": candidates},
        "reevaluation": {"top": 0},
    }
    spec = parse_spec(tree, plugin_spaces=list_plugin_spaces())
    # Set the objective after the validation, which accepts only metrics that a training measures.
    return spec.model_copy(update={"objective": ObjectiveSpec(metric=origin.metric, direction=origin.direction.value)})


def make_origin(task: str, metric: str, direction: Direction | None) -> ScoreOrigin:
    """Return the origin of scores, by default with the usual direction of their metric. Raises `ConflictError`."""
    if metric in NOT_IMPORTED:
        raise ConflictError(
            f"scores of {metric} cannot be imported: a search never sees the test part, and costs follow from the "
            f"code; import {VALIDATION_ACCURACY} or another metric of a training"
        )
    if not task.strip() or not task.isprintable() or len(task) > MAX_TASK_LENGTH:
        raise ConflictError(
            f"--task {task[:MAX_TASK_LENGTH]!r} is not a valid name of a data set: use 1 to {MAX_TASK_LENGTH} "
            "printable characters"
        )
    try:
        require_metric_name(metric)
    except ValueError as error:
        raise ConflictError(f"--metric: {error}") from None
    return ScoreOrigin(task, metric, direction or DIRECTIONS.get(metric, Direction.MAXIMIZE))


def import_score_file(
    settings: Settings,
    file: Path,
    *,
    name: str,
    space: str,
    origin: ScoreOrigin,
    task: Task,
    on_progress: ProgressCallback = lambda *_: None,
) -> ImportedSearch:
    """Import a file into the record of `settings` as a finished search.

    Raises `EatnasError`, and then imports nothing.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConflictError(
            f"{name!r} is not a valid name of a search: it has at most 64 letters, digits, `_`, `.` and `-`, and "
            "begins with a letter or a digit; choose one with --name"
        )
    content = read_score_file(file)
    searched = Space(find_space(space), task)
    make_import_spec(name, space, origin, 1)
    with read_connection(settings.database_url) as connection:
        _require_new(connection, digest_content(content), name, file)
    scores = parse_scores(file, content, searched, metric=origin.metric, on_progress=on_progress)
    spec = make_import_spec(name, space, origin, len(scores.rows))

    def write(connection: Connection) -> int:
        _require_new(connection, scores.sha256, name, file)
        return import_scores(
            connection,
            spec,
            searched,
            scores,
            origin,
            file_name=file.name,
            host=settings.host,
            now=time.time(),
            on_progress=on_progress,
        )

    write_record(settings.database_url, write)
    return ImportedSearch(name, len(scores.rows), scores.ignored)


def import_scores(
    connection: Connection,
    spec: SearchSpec,
    space: Space,
    scores: ScoreFile,
    origin: ScoreOrigin,
    *,
    file_name: str,
    host: str,
    now: float,
    on_progress: ProgressCallback = lambda *_: None,
) -> int:
    """Insert a finished search whose candidates have the scores of a file, and return its id."""
    search_id = insert_search(
        connection, spec, space, data_digest=scores.sha256, slots=1, now=now, kind=SearchKind.IMPORTED
    )
    detail = {"file": file_name, "sha256": scores.sha256, "task": origin.task}
    record_event(connection, now, "created", search_id=search_id, detail=detail)
    importer = _Importer(connection, search_id, space, scores, origin, _record_worker(connection, host, now), now)
    done = 0
    for batch in split_in_batches(scores.rows, MAX_BIRTHS):
        importer.insert(batch, first=done)
        done += len(batch)
        on_progress("scores imported", done, len(scores.rows))
    finish(connection, AdvanceState.of(lock_search(connection, search_id)), now)
    return search_id


class _Importer:
    """Inserts the rows of a file in batches, within one transaction."""

    def __init__(
        self,
        connection: Connection,
        search_id: int,
        space: Space,
        scores: ScoreFile,
        origin: ScoreOrigin,
        worker_id: int,
        now: float,
    ) -> None:
        self._connection, self._search_id, self._space = connection, search_id, space
        self._scores, self._origin, self._worker_id, self._now = scores, origin, worker_id, now
        self._provenances: dict[int | None, int] = {}

    def insert(self, rows: Sequence[ScoreRow], *, first: int) -> None:
        """Insert consecutive births with their scores, and settle them."""
        births = [
            Birth(number, Origin.IMPORTED, self._space.propose(self._space.parse(row.code)))
            for number, row in enumerate(rows, first)
        ]
        insert_candidates(self._connection, self._search_id, births, self._now)
        objective = Objective(self._origin.metric, self._origin.direction)
        scores = [
            ImportedScore(
                birth=birth.number,
                value=row.score,
                fitness=objective.fitness(row.score, birth.proposal.cost.mult_adds),
                seed=row.seed,
                epochs=row.epochs,
                provenance_id=self._provenance_of(row.epochs),
            )
            for birth, row in zip(births, rows, strict=True)
        ]
        transitions.record_imported_scores(
            self._connection,
            self._search_id,
            scores,
            metric=objective.metric,
            worker_id=self._worker_id,
            now=self._now,
        )
        settle_births(self._connection, self._search_id, self._now)

    def _provenance_of(self, epochs: int | None) -> int:
        if epochs not in self._provenances:
            recipe: dict[str, Any] = {
                "imported": self._scores.sha256,
                "task": self._origin.task,
                "metric": self._origin.metric,
                "direction": self._origin.direction.value,
                "epochs": epochs,
            }
            digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
            conditions = Provenance(digest, recipe, self._scores.sha256, {}, DEVICE, "")
            self._provenances[epochs] = store_provenance(self._connection, conditions)
        return self._provenances[epochs]


def _require_new(connection: Connection, sha256: str, name: str, file: Path) -> None:
    """Raise `ConflictError` if the file was imported before, or the name of the search is taken."""
    same = select(search.c.name).where(search.c.kind == SearchKind.IMPORTED, search.c.data_digest == sha256)
    before = connection.execute(same.limit(1)).scalar()
    if before is not None:
        raise ConflictError(
            f"{file} was imported before, as search {before!r}; use that search, or delete it first with "
            f"`eatnas-db search delete {before}`"
        )
    if connection.execute(select(search.c.id).where(search.c.name == name)).first() is not None:
        raise ConflictError(f"a search named {name!r} already exists; choose another name with --name")


def _record_worker(connection: Connection, host: str, now: float) -> int:
    """Record a worker for the attempts, with the pid of this process. The worker has already ended."""
    host_id = find_host(connection, host, now)  # does not block a running daemon of this host
    device_id = register_device(connection, host_id, cpu_uuid(host), "cpu", "CPU")
    worker_id = record_worker_start(connection, device_id, 0, os.getpid(), now)
    record_worker_end(connection, worker_id, "it imported scores", now)
    return worker_id
