"""Check a recorded birth against the model. Allow for differences in rounding between processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.guidance.encoding import Code, Encoding, Reals, as_array
from eatnas_db.guidance.gaussian_process import LIKELIHOOD_MARGIN, ProcessModel, likelihoods, make_points
from eatnas_db.guidance.proposals import (
    MIN_AGREEMENT,
    PARENTS,
    TOLERANCE,
    CodeSpace,
    EvaluatedPool,
    ScoredCode,
    Seconds,
    centre,
    evaluate_pool,
    model_of_sources,
    rank_targets,
)
from eatnas_db.guidance.sources import SourceModel, predict_all

ROUNDING: Final = 1e-9
"""The bound of the differences between values that different processors compute."""


def may_choose_model(
    encoding: Encoding, rows: Sequence[ScoredCode], model: ProcessModel, sources: Sequence[SourceModel] = ()
) -> bool:
    """Return whether `model` has the largest likelihood for `rows`, up to differences in rounding."""
    if sources and not rows:
        return model._replace(births=0) == model_of_sources(sources)
    points = make_points(encoding, as_array([row.code for row in rows], len(encoding.levels)))
    expected = centre(predict_all(sources, points))
    found = dict(likelihoods(encoding, points, rank_targets(rows), expected))
    likelihood = found.get(model._replace(births=0))
    return likelihood is not None and likelihood >= max(found.values()) - len(found) * LIKELIHOOD_MARGIN


def may_propose(
    space: CodeSpace,
    model: ProcessModel,
    rows: Sequence[ScoredCode],
    pending: Sequence[Code],
    rng: KeyedRng,
    accepts: Callable[[Code], bool],
    is_recorded: Callable[[Code], bool] | None,
    sources: Sequence[SourceModel] = (),
    *,
    seconds: Seconds | None = None,
) -> bool:
    """Return whether the model proposes the recorded code or, if `is_recorded` is None, leaves the birth to evolution.

    If the choice depends on rounding, return True.
    """
    pool = evaluate_pool(space, model, rows, pending, rng, sources, seconds=seconds)
    if pool is None:
        return is_recorded is None
    if abs(pool.agreement - MIN_AGREEMENT) < ROUNDING or _depends_on_rounding(pool.parents_fitted):
        return True
    if pool.hands_over or is_recorded is None:
        return is_recorded is None and (pool.hands_over or not any(map(accepts, pool.codes)))
    return _is_best(pool, accepts, is_recorded)


def _is_best(pool: EvaluatedPool, accepts: Callable[[Code], bool], is_recorded: Callable[[Code], bool]) -> bool:
    """Return whether the recorded code is accepted and has nearly the largest acquisition of all accepted codes."""
    best_first = sorted(range(len(pool.codes)), key=lambda place: -pool.acquisition[place])
    best = next((pool.acquisition[place] for place in best_first if accepts(pool.codes[place])), None)
    if best is None:
        return False
    tied = [place for place in best_first if pool.acquisition[place] >= best - TOLERANCE - ROUNDING]
    return any(is_recorded(pool.codes[place]) and accepts(pool.codes[place]) for place in tied)


def _depends_on_rounding(parents_fitted: Reals) -> bool:
    """Return whether a difference in rounding could change the parents of the pool, or their order."""
    steps = parents_fitted[: PARENTS + 1] / TOLERANCE
    return bool((np.abs(steps - np.floor(steps) - 0.5) < ROUNDING / TOLERANCE).any())
