"""Measure how well finished searches, the possible sources of another search, agree with that search. This module loads
SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eatnas_db.domain.space import Space
from eatnas_db.guidance.blas_threads import one_thread
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.guidance.encoding import Reals, as_array
from eatnas_db.guidance.gaussian_process import make_points
from eatnas_db.guidance.proposals import ScoredCode, fit_source, rank_targets
from eatnas_db.scored_births import ScoredBirthRow, encode_rows

MIN_COMPARED: Final = 8
"""The minimum number of networks with which a rank correlation is meaningful."""
GOOD: Final = 0.5
POOR: Final = 0.2


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of a search's scores with the ranks of another search, `reference`.

    `correlation` is the correlation of normal scores (ranks mapped to a normal distribution). If `shared` is true,
    `correlation` compares the scores of the `networks` networks that both searches trained. Otherwise `correlation`
    compares the reference's scores with predictions of the search's model. `correlation` is None if there are too few
    networks.
    """

    search: str
    reference: str
    correlation: float | None
    error: float | None
    networks: int
    shared: bool
    verdict: str


def compare_searches(space: Space, scored: Mapping[str, Sequence[ScoredBirthRow]], reference: str) -> list[Agreement]:
    """Return how well each search predicts the reference, the best first; the reference itself is left out.

    `scored` maps the names of searches to their scored births. Fitting a model takes up to a second, so the caller
    should end the transaction that reads the births before this call.
    """
    theirs = encode_rows(space, scored[reference])
    found = [
        _compare(name, reference, encode_rows(space, rows), theirs, space)
        for name, rows in scored.items()
        if name != reference
    ]
    return sorted(found, key=lambda agreement: -math.inf if agreement.correlation is None else -agreement.correlation)


def _compare(
    name: str, reference: str, rows: Sequence[ScoredCode], theirs: Sequence[ScoredCode], space: Space
) -> Agreement:
    ours = {row.code: row for row in rows}
    shared = [row for row in theirs if row.code in ours]
    if len(shared) >= MIN_COMPARED:
        pairs = rank_targets([ours[row.code] for row in shared]), rank_targets(shared)
        return _agreement(name, reference, *pairs, shared=True)
    if len(theirs) < MIN_COMPARED or len(rows) < MIN_COMPARED:
        return Agreement(name, reference, None, None, min(len(theirs), len(rows)), False, "unknown")
    encoding = BlockCodes(space).encoding
    with one_thread():
        model = fit_source(encoding, rows)
        predicted = model.predict(make_points(encoding, as_array([row.code for row in theirs], len(encoding.levels))))
    return _agreement(name, reference, predicted, rank_targets(theirs), shared=False)


def _agreement(name: str, reference: str, ours: Reals, theirs: Reals, *, shared: bool) -> Agreement:
    deviations = float(ours.std() * theirs.std())
    if deviations == 0:  # all scores of one search are equal
        return Agreement(name, reference, None, None, len(theirs), shared, "unknown")
    covariance = float(np.mean((ours - ours.mean()) * (theirs - theirs.mean())))
    correlation = covariance / deviations
    verdict = "agrees" if correlation >= GOOD else "uncertain" if correlation >= POOR else "disagrees"
    error = 1 / math.sqrt(len(theirs) - 1)
    return Agreement(name, reference, round(correlation, 3), round(error, 3), len(theirs), shared, verdict)
