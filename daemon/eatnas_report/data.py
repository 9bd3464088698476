"""What a report shows, read from the record in one view of it; no more than can be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from eatnas_db.queries.candidates import CandidateScore, get_candidate
from eatnas_db.queries.failures import FailedAttempt, list_failures
from eatnas_db.queries.fingerprint import Fingerprint, get_fingerprint
from eatnas_db.queries.lineage import LineageEntry, ScoredChild, get_lineage, list_scored_children
from eatnas_db.queries.pareto import Tradeoff, list_front, list_tradeoffs
from eatnas_db.queries.primitives import PrimitiveShare, list_primitives
from eatnas_db.queries.progress import SearchCounters, get_progress
from eatnas_db.queries.quality import PopulationStep, list_steps
from eatnas_db.queries.ranking import RankedCandidate, get_winner, list_best
from eatnas_db.queries.searches import SearchRecord, get_search, list_searches
from eatnas_db.queries.utilisation import Utilisation, get_utilisation
from eatnas_report.plots import thinned

LEADERS: Final = 10
MOST_TRADEOFFS: Final = 3000
MOST_ANCESTORS: Final = 200
MOST_KIN: Final = 400
MOST_PRINTED: Final = 100_000
"""Of more candidates the fingerprint takes longer than all the rest."""
POINTS: Final = 20
"""At so many steps the primitives are counted."""


@dataclass(frozen=True, slots=True)
class Findings:
    """One search; `best` is the best by the yardstick, or where none was taken by its score.

    `lineage` is thinned to what is drawn, and `generations` says how long it is; so with `kin` and `kin_found`.
    """

    search: SearchRecord
    source: str | None
    progress: SearchCounters
    fittest: RankedCandidate | None
    best: RankedCandidate | None
    leaders: tuple[RankedCandidate, ...]
    fingerprint: Fingerprint | None
    steps: tuple[PopulationStep, ...]
    cloud: tuple[Tradeoff, ...]
    front: tuple[Tradeoff, ...]
    lineage: tuple[LineageEntry, ...]
    generations: int
    kin: tuple[ScoredChild, ...]
    kin_found: int
    primitives: tuple[PrimitiveShare, ...]
    failures: tuple[FailedAttempt, ...]
    utilisation: Utilisation
    scores: tuple[CandidateScore, ...]
    now: float


def collect(connection: Connection, name: str, now: float) -> Findings:
    """Everything that a report of this search shows. Raises `NotFoundError`."""
    search = get_search(connection, name)
    of = search.id
    fittest = next(iter(list_best(connection, of, 1)), None)
    winner = get_winner(connection, of)
    best = winner if winner is not None and winner.yardstick is not None else fittest
    ancestors = () if best is None else get_lineage(connection, best.id)
    lineage = tuple(thinned(ancestors, MOST_ANCESTORS))
    kin = list_scored_children(connection, [one.id for one in lineage])
    return Findings(
        search=search,
        source=next((one.name for one in list_searches(connection) if one.id == search.source_id), None),
        progress=get_progress(connection, of),
        fittest=fittest,
        best=best,
        leaders=list_best(connection, of, LEADERS),
        fingerprint=get_fingerprint(connection, of) if search.settled <= MOST_PRINTED else None,
        steps=list_steps(connection, of),
        cloud=list_tradeoffs(connection, of, MOST_TRADEOFFS),
        front=list_front(connection, of),
        lineage=lineage,
        generations=len(ancestors),
        kin=tuple(thinned(kin, MOST_KIN)),
        kin_found=len(kin),
        primitives=list_primitives(connection, of, points=POINTS),
        failures=list_failures(connection, of),
        utilisation=get_utilisation(connection, of, now),
        scores=() if best is None else get_candidate(connection, best.id).scores,
        now=now,
    )
