"""The data of a report, read from the record in one transaction and limited to what a report can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from eatnas_db.domain.states import SearchKind
from eatnas_db.queries.calibration import (
    Calibration,
    PredictedBirth,
    get_calibration,
    list_predictions,
    list_source_names,
)
from eatnas_db.queries.candidates import CandidateScore, get_candidate
from eatnas_db.queries.failures import FailedAttempt, list_failures
from eatnas_db.queries.fingerprint import Fingerprint, get_fingerprint
from eatnas_db.queries.lineage import LineageEntry, ScoredChild, get_lineage, list_scored_children
from eatnas_db.queries.objective_front import ObjectiveValues, list_objective_front, sample_objective_values
from eatnas_db.queries.paging import EVERYTHING
from eatnas_db.queries.pareto import Tradeoff, list_front, list_tradeoffs
from eatnas_db.queries.primitives import PrimitiveShare, list_primitives
from eatnas_db.queries.progress import SearchCounters, get_progress
from eatnas_db.queries.quality import PopulationStep, list_steps
from eatnas_db.queries.ranking import RankedCandidate, get_best, list_best, list_fittest
from eatnas_db.queries.rungs import RungCount, count_rungs
from eatnas_db.queries.searches import SearchRecord, get_search, list_searches
from eatnas_db.queries.utilisation import Utilisation, get_utilisation
from eatnas_report.sampling import sample_evenly

TOP_CANDIDATES: Final = 10
MAX_TRADEOFFS: Final = 3000
MAX_ANCESTORS: Final = 200
MAX_RELATED: Final = 400
MAX_FINGERPRINTED: Final = 100_000
"""With more candidates, the fingerprint alone takes longer than the rest of the report."""
PRIMITIVE_STEPS: Final = 20


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the report of one search shows.

    `best` is the best candidate by re-evaluation if there was one, otherwise the same as `fittest`. `lineage` (the
    best and its ancestors, newest first) and `related` (other children of these) may be samples; `generations` and
    `related_total` are the full numbers. `fingerprint` is None for searches that are too long to compute it here.
    """

    search: SearchRecord
    source: str | None
    progress: SearchCounters
    fittest: RankedCandidate | None
    best: RankedCandidate | None
    top: tuple[RankedCandidate, ...]
    fingerprint: Fingerprint | None
    steps: tuple[PopulationStep, ...]
    tradeoffs: tuple[Tradeoff, ...]
    front: tuple[Tradeoff, ...]
    objective_values: tuple[ObjectiveValues, ...]
    objective_front: tuple[ObjectiveValues, ...]
    lineage: tuple[LineageEntry, ...]
    generations: int
    related: tuple[ScoredChild, ...]
    related_total: int
    predictions: tuple[PredictedBirth, ...]
    calibration: Calibration
    primitives: tuple[PrimitiveShare, ...]
    failures: tuple[FailedAttempt, ...]
    utilisation: Utilisation
    scores: tuple[CandidateScore, ...]
    rungs: tuple[RungCount, ...]
    now: float


def load_report_data(connection: Connection, name: str, now: float) -> ReportData:
    """Read the data of a search's report. Raises `NotFoundError`."""
    search = get_search(connection, name)
    best = get_best(connection, search.id)
    ancestors = () if best is None else get_lineage(connection, best.id)
    lineage = tuple(sample_evenly(ancestors, MAX_ANCESTORS))
    related = list_scored_children(connection, [relative.id for relative in lineage])
    return ReportData(
        search=search,
        source=_name_sources(connection, search),
        progress=get_progress(connection, search.id),
        fittest=next(iter(list_fittest(connection, search.id, 1)), None),
        best=best,
        top=list_best(connection, search.id, TOP_CANDIDATES),
        fingerprint=get_fingerprint(connection, search.id) if search.settled <= MAX_FINGERPRINTED else None,
        steps=list_steps(connection, search.id),
        tradeoffs=list_tradeoffs(connection, search.id, MAX_TRADEOFFS),
        front=list_front(connection, search.id, direction=search.objective.direction),
        objective_values=sample_objective_values(connection, search.id, MAX_TRADEOFFS) if search.objectives else (),
        objective_front=list_objective_front(connection, search.id),
        lineage=lineage,
        generations=len(ancestors),
        related=tuple(sample_evenly(related, MAX_RELATED)),
        related_total=len(related),
        predictions=tuple(list_predictions(connection, search.id, EVERYTHING)),
        calibration=get_calibration(connection, search.id),
        primitives=list_primitives(connection, search.id, points=PRIMITIVE_STEPS),
        failures=list_failures(connection, search.id),
        utilisation=get_utilisation(connection, search.id, now),
        scores=() if best is None else get_candidate(connection, best.id).scores,
        rungs=count_rungs(connection, search.id, search.spec) if search.kind == SearchKind.EVOLUTION else (),
        now=now,
    )


def _name_sources(connection: Connection, search: SearchRecord) -> str | None:
    """Return the names of the searches that a search comes from, or None."""
    names = list_source_names(connection, search.id)
    return ", ".join(names) or next((row.name for row in list_searches(connection) if row.id == search.source_id), None)
