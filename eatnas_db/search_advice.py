"""Advise about a planned search from its spec and the record: which differences of scores are meaningful, and which
sources are useful.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Objective
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.states import SearchKind
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.searches import MAXIMUM_NAME_LENGTH, search
from eatnas_db.score_noise import (
    PlannedTask,
    PopulationSpread,
    Resolution,
    ScoreNoise,
    compute_resolution,
    estimate_noise,
    estimate_spread,
    list_comparable,
)
from eatnas_db.searches.transfer_model import MIN_SOURCE_SCORES

if TYPE_CHECKING:  # this import loads SciPy
    from eatnas_db.scored_births import ScoredBirthRow

SOURCE_TRAININGS: Final = 32
SMALLEST_RESOLUTION: Final = 8
SAMPLES: Final = 8
MIN_REFERENCE_SCORES: Final = 8
PILOT_CANDIDATES: Final = 8
REPEATED_SEEDS: Final = 3

_SELECT_NAMES: Final = select(search.c.name, search.c.finished_at)


@dataclass(frozen=True, slots=True)
class SmallerTask:
    """A smaller task, and the cost of a source search on this task.

    `share` is the cost of one training on the task, and `trainings` is the cost of `SOURCE_TRAININGS` trainings. The
    unit of both costs is a training of the planned search.
    """

    resolution: int
    train_images: int
    epochs: int
    share: float
    trainings: float


@dataclass(frozen=True, slots=True)
class SourceAdvice:
    """A finished search that may be a source, and its agreement with `reference`, a search on the planned task.

    `correlation` is a rank correlation over `networks`, with the standard error `error`; None if it is unknown.
    `shared` is true if both searches trained these networks; otherwise a model of the search predicts them.
    """

    search: str
    scores: int
    same_task: bool
    device_seconds: float
    reference: str | None = None
    correlation: float | None = None
    error: float | None = None
    networks: int = 0
    shared: bool = False
    verdict: str = "unknown"


@dataclass(frozen=True, slots=True)
class SearchAdvice:
    """The facts about a planned search, and sentences about the facts that the record does not contain (`missing`).

    `reevaluation_seeds` is 0 if the search will have no re-evaluation.
    """

    noise: ScoreNoise | None
    spread: PopulationSpread | None
    resolution: Resolution | None
    reevaluation_seeds: int
    smaller: SmallerTask | None
    sources: tuple[SourceAdvice, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a record says: comparable searches, and the scored births of the searches whose scores are compared.

    `reference` is the largest search of the planned task; None if there is none.
    """

    searches: Sequence[SearchRecord] = ()
    noise: ScoreNoise | None = None
    spread: PopulationSpread | None = None
    reference: SearchRecord | None = None
    scored: Mapping[str, Sequence[ScoredBirthRow]] = field(default_factory=dict)
    is_finished: Mapping[str, bool] = field(default_factory=dict)
    """Maps the name of each search of the record to whether the search has ended."""


def advise(
    engine: Engine | None,
    spec: SearchSpec,
    space: Space,
    *,
    data_digest: str,
    train_images: int,
    file: str,
    changes: Sequence[str] = (),
) -> SearchAdvice:
    """Return the advice; `engine` is None if there is no record.

    The commands in the advice refer to the spec by `file` and `changes` (`section.key=value`).
    """
    stored = spec.model_dump(mode="json")
    plan = PlannedTask(
        primitives=space.macro.blocks,
        objective=Objective.from_spec(stored),
        task={"resolution": space.task.resolution, "channels": space.task.channels, "classes": space.task.classes},
        data_digest=data_digest,
        training=stored["training"],
    )
    known = _Known()
    if engine is not None and spec.objective.metrics is None:
        with read_transaction(engine) as connection:
            known = _read_known(connection, plan)
    sources = _list_sources(plan, space, known)
    noise, spread = known.noise, known.spread
    return SearchAdvice(
        noise=noise,
        spread=spread,
        resolution=None if noise is None or spread is None else compute_resolution(noise, spread),
        reevaluation_seeds=spec.reevaluation.seeds if spec.reevaluation.top else 0,
        smaller=_plan_smaller_task(spec, space, train_images),
        sources=tuple(sources),
        missing=tuple(_list_missing(plan, spec, known, sources, _pilot_command(spec, known, file, changes))),
    )


def _read_known(connection: Connection, plan: PlannedTask) -> _Known:
    searches = list_comparable(connection, plan)
    finished = [record for record in searches if _may_be_source(record)]
    same_task = [record for record in searches if plan.has_same_task(record) and record.scored >= MIN_REFERENCE_SCORES]
    reference = max(same_task, key=lambda record: (record.scored, record.id), default=None)
    return _Known(
        searches=searches,
        noise=estimate_noise(connection, plan, searches),
        spread=estimate_spread(connection, plan, searches),
        reference=reference,
        scored={} if reference is None else _read_scored(connection, [*finished, reference]),
        is_finished={name: ended is not None for name, ended in connection.execute(_SELECT_NAMES)},
    )


def _read_scored(connection: Connection, searches: Sequence[SearchRecord]) -> dict[str, tuple[ScoredBirthRow, ...]]:
    # Import the model only here, because it loads SciPy.
    from eatnas_db.scored_births import list_scored

    return {record.name: list_scored(connection, record.id, record.settled) for record in searches}


def _may_be_source(record: SearchRecord) -> bool:
    return record.finished_at is not None and record.scored >= MIN_SOURCE_SCORES


def _list_sources(plan: PlannedTask, space: Space, known: _Known) -> list[SourceAdvice]:
    unknown = [
        SourceAdvice(record.name, record.scored, plan.has_same_task(record), record.device_seconds)
        for record in known.searches
        if _may_be_source(record)
    ]
    if known.reference is None:
        return unknown
    # Import the model only here, because it loads SciPy.
    from eatnas_db.source_agreement import compare_searches

    reference = known.reference.name
    found = {agreement.search: agreement for agreement in compare_searches(space, known.scored, reference)}
    advised = [
        replace(
            source,
            reference=reference,
            correlation=agreement.correlation,
            error=agreement.error,
            networks=agreement.networks,
            shared=agreement.shared,
            verdict=agreement.verdict,
        )
        for source in unknown
        if (agreement := found.get(source.search)) is not None
    ]
    first = [replace(source, verdict="same task") for source in unknown if source.search == reference]
    return first + sorted(advised, key=lambda source: -(source.correlation if source.correlation is not None else -2))


def _plan_smaller_task(spec: SearchSpec, space: Space, train_images: int) -> SmallerTask | None:
    """Return a task with half the resolution, a quarter of the images and half the epochs; None without images."""
    if not train_images:
        return None
    side = space.task.resolution
    resolution = side // 2 if side >= 2 * SMALLEST_RESOLUTION else side
    images, epochs = max(1, train_images // 4), max(1, spec.training.epochs // 2)
    smaller = Space(space.macro, Task(resolution, space.task.channels, space.task.classes))
    ratios = []
    for number in range(SAMPLES):
        architecture = space.sample(KeyedRng(spec.seed, "estimate", number), lambda _: False).architecture
        before, after = space.propose(architecture).cost.mult_adds, smaller.propose(architecture).cost.mult_adds
        ratios.append(after / before)
    share = statistics.median(ratios) * images / train_images * epochs / spec.training.epochs
    return SmallerTask(resolution, images, epochs, share, share * SOURCE_TRAININGS)


def _list_missing(
    plan: PlannedTask, spec: SearchSpec, known: _Known, sources: Sequence[SourceAdvice], pilot: str
) -> list[str]:
    """Return a sentence for each fact that the record does not contain, with a command that would provide it."""
    if spec.objective.metrics is not None:
        return ["With several objectives, neither noise nor sources are estimated."]
    noise, spread = known.noise, known.spread
    same_task = [record for record in known.searches if plan.has_same_task(record)]
    missing = []
    # Leave out imported searches: their scores come from elsewhere, and nothing can train their networks again.
    trained = [record for record in same_task if record.kind == SearchKind.EVOLUTION]
    if noise is None and trained:
        missing.append(
            "No network of this task was trained twice, so the noise of a score is unknown. This command trains some "
            f"networks again: {_repeat_command(trained[-1])}"
        )
    elif noise is None or spread is None:
        unknown = "the noise of a score and the spread of a population are" if noise is None else "the spread is"
        missing.append(f"No search provides an estimate, so {unknown} unknown. This command trains a pilot: {pilot}")
    if sources and not any(record.scored >= MIN_REFERENCE_SCORES for record in same_task) and not missing:
        missing.append(
            f"No search of this task has {MIN_REFERENCE_SCORES} scores, so the agreement of the sources is unknown. "
            f"This command trains a pilot: {pilot}"
        )
    return missing


def _repeat_command(record: SearchRecord) -> str:
    """Return a command that trains the best networks of a search again; for an unfinished search, `run` may suffice."""
    run = f"eatnas-db run {shlex.quote(record.name)}"
    reevaluation = record.spec["reevaluation"]
    if record.finished_at is None and reevaluation["top"] and reevaluation["seeds"] > 1:
        return run
    return f"eatnas-db search reevaluate {shlex.quote(record.name)} --seeds {REPEATED_SEEDS} && {run}"


def _fitting_name(name: str, ending: str) -> str:
    return name[: MAXIMUM_NAME_LENGTH - len(ending)] + ending


def _pilot_command(spec: SearchSpec, known: _Known, file: str, changes: Sequence[str]) -> str:
    """Return a command that creates or continues a small search of the planned task that uses no sources."""
    number, name = 1, _fitting_name(spec.name, "-pilot")
    while name in known.is_finished:
        if not known.is_finished[name]:
            return shlex.join(["eatnas-db", "run", name])
        number += 1
        name = _fitting_name(spec.name, f"-pilot-{number}")
    own = {"name": name, "budget.candidates": str(PILOT_CANDIDATES)}
    if spec.transfer.start == "model":  # `start: model` needs a source
        own |= {"transfer.start": "perturbations", "transfer.sources": "[]"}
    kept = [change for change in changes if change.partition("=")[0] not in own]
    settings = [*kept, *(f"{key}={value}" for key, value in own.items())]
    command = ["eatnas-db", "search", "create", file, *(word for one in settings for word in ("--set", one))]
    return f"{shlex.join(command)} && {shlex.join(['eatnas-db', 'run', name])}"
