"""Read the data of a report from the record in one transaction, limited to the amount that a report can show."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from sqlalchemy import Connection

from eatnas_db.domain.states import SearchKind
from eatnas_db.queries.calibration import (
    Calibration,
    PredictedBirth,
    get_calibration,
    list_predictions,
)
from eatnas_db.queries.candidates import CandidateScore, get_candidate, list_genotypes
from eatnas_db.queries.failures import FailedAttempt, list_failures
from eatnas_db.queries.fingerprint import Fingerprint, get_fingerprint
from eatnas_db.queries.learning_curves import LearningCurve, list_candidates_in_training, list_learning_curves
from eatnas_db.queries.lineage import LineageEntry, ScoredChild, get_lineage, list_scored_children
from eatnas_db.queries.objective_front import ObjectiveValues, list_objective_front, sample_objective_values
from eatnas_db.queries.paging import EVERYTHING
from eatnas_db.queries.pareto import Tradeoff, list_front, list_tradeoffs
from eatnas_db.queries.predictions import list_source_names
from eatnas_db.queries.primitives import PrimitiveShare, list_primitives
from eatnas_db.queries.progress import SearchCounters, get_progress
from eatnas_db.queries.quality import PopulationStep, list_steps
from eatnas_db.queries.ranking import RankedCandidate, list_best, list_fittest
from eatnas_db.queries.rungs import RungCount, count_rungs
from eatnas_db.queries.searches import SearchRecord, get_search, list_searches
from eatnas_db.queries.utilisation import Utilisation, get_utilisation
from eatnas_report.sampling import sample_evenly

TOP_CANDIDATES: Final = 10
DRAWN_ARCHITECTURES: Final = 2
MAX_STEPS: Final = 1000
MAX_TRADEOFFS: Final = 3000
MAX_ANCESTORS: Final = 200
MAX_RELATED: Final = 400
MAX_TRAINING_CURVES: Final = 16
MAX_FINGERPRINTED: Final = 100_000
"""The report omits the fingerprint of a search with more candidates, since computing it would take longer than all
other parts.
"""
PRIMITIVE_STEPS: Final = 20

T = TypeVar("T")


class ReportPart(StrEnum):
    """The parts of a report, in their order on the page."""

    OVERVIEW = "overview"
    QUALITY = "quality"
    CURVES = "curves"
    FRONT = "front"
    OBJECTIVES = "objectives"
    TOP = "top"
    ARCHITECTURES = "architectures"
    LINEAGE = "lineage"
    PREDICTIONS = "predictions"
    PRIMITIVES = "primitives"
    FAILURES = "failures"
    UTILISATION = "utilisation"
    SPECIFICATION = "specification"
    VERSIONS = "versions"


ALL_PARTS: Final = frozenset(ReportPart)
WITH_BEST: Final = frozenset(
    {
        ReportPart.OVERVIEW,
        ReportPart.CURVES,
        ReportPart.TOP,
        ReportPart.ARCHITECTURES,
        ReportPart.LINEAGE,
        ReportPart.VERSIONS,
    }
)
"""The parts whose data include the ranking."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """The data of the report of one search. A part that was not requested is empty.

    `best` is the best candidate by re-evaluation; without re-evaluations it equals `fittest`. `lineage` (the best
    candidate and its ancestors, newest first) and `related` (the ancestors' other children) may be samples.
    `generations` and `related_total` count all candidates, including those that are not in the samples. `steps` is a
    sample if the search is long. `fingerprint` is None if the search has too many candidates (see `MAX_FINGERPRINTED`).
    `genotypes` maps the ids of the first candidates of `top` to their genotypes.
    """

    search: SearchRecord
    source: str | None
    progress: SearchCounters
    fittest: RankedCandidate | None
    best: RankedCandidate | None
    top: tuple[RankedCandidate, ...]
    fingerprint: Fingerprint | None
    steps: tuple[PopulationStep, ...]
    curves: tuple[LearningCurve, ...]
    tradeoffs: tuple[Tradeoff, ...]
    front: tuple[Tradeoff, ...]
    objective_values: tuple[ObjectiveValues, ...]
    objective_front: tuple[ObjectiveValues, ...]
    genotypes: dict[int, str]
    lineage: tuple[LineageEntry, ...]
    generations: int
    related: tuple[ScoredChild, ...]
    related_total: int
    predictions: tuple[PredictedBirth, ...]
    calibration: Calibration | None
    primitives: tuple[PrimitiveShare, ...]
    failures: tuple[FailedAttempt, ...]
    utilisation: Utilisation | None
    scores: tuple[CandidateScore, ...]
    rungs: tuple[RungCount, ...]
    now: float


@dataclass(frozen=True, slots=True)
class _PartReader:
    """Reads the values of the requested parts of a report."""

    parts: Collection[ReportPart]

    def read(self, part: ReportPart, query: Callable[[], T], otherwise: T) -> T:
        """Return the result of `query` if `part` is requested, otherwise return `otherwise`."""
        return query() if part in self.parts else otherwise


def load_report_data(
    connection: Connection,
    name: str,
    now: float,
    *,
    parts: Collection[ReportPart] = ALL_PARTS,
    max_fingerprinted: int = MAX_FINGERPRINTED,
) -> ReportData:
    """Read the data for the given parts of a search's report. Raises `NotFoundError`."""
    search, reader = get_search(connection, name), _PartReader(parts)
    top = list_best(connection, search.id, TOP_CANDIDATES) if WITH_BEST & set(parts) else ()
    best = next(iter(top), None)
    ancestors = get_lineage(connection, best.id) if best is not None and ReportPart.LINEAGE in parts else ()
    lineage = tuple(sample_evenly(ancestors, MAX_ANCESTORS))
    related = list_scored_children(connection, [relative.id for relative in lineage]) if lineage else []
    has_objectives = bool(search.objectives) and ReportPart.OBJECTIVES in parts
    is_fingerprinted = ReportPart.OVERVIEW in parts and search.settled <= max_fingerprinted
    return ReportData(
        search=search,
        source=_name_sources(connection, search),
        progress=get_progress(connection, search.id),
        fittest=reader.read(
            ReportPart.OVERVIEW, lambda: next(iter(list_fittest(connection, search.id, 1)), None), None
        ),
        best=best,
        top=top,
        fingerprint=get_fingerprint(connection, search.id) if is_fingerprinted else None,
        steps=reader.read(ReportPart.QUALITY, lambda: list_steps(connection, search.id, max_points=MAX_STEPS), ()),
        curves=reader.read(ReportPart.CURVES, lambda: _read_curves(connection, search, top), ()),
        tradeoffs=reader.read(ReportPart.FRONT, lambda: list_tradeoffs(connection, search.id, MAX_TRADEOFFS), ()),
        front=reader.read(
            ReportPart.FRONT, lambda: list_front(connection, search.id, direction=search.objective.direction), ()
        ),
        objective_values=sample_objective_values(connection, search.id, MAX_TRADEOFFS) if has_objectives else (),
        objective_front=list_objective_front(connection, search.id) if has_objectives else (),
        genotypes=reader.read(
            ReportPart.ARCHITECTURES,
            lambda: list_genotypes(connection, [row.id for row in top[:DRAWN_ARCHITECTURES]]),
            {},
        ),
        lineage=lineage,
        generations=len(ancestors),
        related=tuple(sample_evenly(related, MAX_RELATED)),
        related_total=len(related),
        predictions=reader.read(
            ReportPart.PREDICTIONS, lambda: tuple(list_predictions(connection, search.id, EVERYTHING)), ()
        ),
        calibration=reader.read(ReportPart.PREDICTIONS, lambda: get_calibration(connection, search.id), None),
        primitives=reader.read(
            ReportPart.PRIMITIVES, lambda: list_primitives(connection, search.id, points=PRIMITIVE_STEPS), ()
        ),
        failures=reader.read(ReportPart.FAILURES, lambda: list_failures(connection, search.id), ()),
        utilisation=reader.read(ReportPart.UTILISATION, lambda: get_utilisation(connection, search.id, now), None),
        scores=reader.read(
            ReportPart.VERSIONS, lambda: () if best is None else get_candidate(connection, best.id).scores, ()
        ),
        rungs=count_rungs(connection, search.id, search.spec) if search.kind == SearchKind.EVOLUTION else (),
        now=now,
    )


def _name_sources(connection: Connection, search: SearchRecord) -> str | None:
    """Return the names of the sources of a search, or None if it has none."""
    names = list_source_names(connection, search.id)
    return ", ".join(names) or next((row.name for row in list_searches(connection) if row.id == search.source_id), None)


def _read_curves(
    connection: Connection, search: SearchRecord, top: tuple[RankedCandidate, ...]
) -> tuple[LearningCurve, ...]:
    """Return the learning curves of the best candidates and of the candidates that are in training."""
    in_training = list_candidates_in_training(connection, search.id, MAX_TRAINING_CURVES)
    ids = list(dict.fromkeys([*(row.id for row in top), *in_training]))
    return list_learning_curves(connection, ids, search.objective.metric)
