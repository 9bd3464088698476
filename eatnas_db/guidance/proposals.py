"""Propose the next code from the scores so far. The functions are pure: all randomness is in their argument `rng`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from scipy.special import ndtr

from eatnas_db.domain.evolution import GUIDED_MIN_SCORES, BirthPrediction
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.guidance.encoding import Code, Encoding, Reals, as_array
from eatnas_db.guidance.gaussian_process import (
    Points,
    Posterior,
    ProcessModel,
    choose_model,
    make_points,
    normal_scores,
    prior_mean,
)
from eatnas_db.guidance.sources import SourceModel, predict_all

MAX_ROWS: Final = 300
PARENTS: Final = 8
MUTANTS: Final = 12
RANDOM_CODES: Final = 100
MODEL_GROWTH: Final = 1.3
WATCHED_SCORES: Final = 16
"""With fewer scores, the agreement of scores and predictions is ignored, because it would be a matter of chance.
"""
MIN_AGREEMENT: Final = 0.1
"""The model decides births only if the correlation of scores and leave-one-out predictions is at least this large."""
TOLERANCE: Final = 1e-6
"""Values that differ by less count as equal, because processors may round them differently."""


class CodeSpace(Protocol):
    """A space of codes, as the model sees it."""

    @property
    def encoding(self) -> Encoding:
        """The positions of a code."""
        ...

    def sample(self, rng: KeyedRng) -> Code:
        """Return a random code."""
        ...

    def neighbours(self, code: Code) -> list[Code]:
        """Return every code that differs in one position."""
        ...

    def mutate(self, code: Code, count: int, rng: KeyedRng) -> Code | None:
        """Return a random code that differs in `count` positions, or None if the drawn code is not in the space."""
        ...


class ScoredCode(NamedTuple):
    """A scored birth with the score at its last rung. A birth on a higher rung is better than any birth on a lower
    rung.
    """

    birth: int
    code: Code
    score: float
    rung: int = 0


Seconds = Callable[[Sequence[Code]], Reals]
"""Returns the predicted device seconds of codes, relative to the median scored code, with shape (codes,)."""


class EvaluatedPool(NamedTuple):
    """The codes to choose from, with their predictions in arrays with shape (codes,).

    `parent_of` is the birth from which a code is derived, or None for a random code. `acquisition` is the expected
    improvement, or the expected improvement per predicted second. The accepted code with the largest acquisition is
    chosen.
    """

    codes: list[Code]
    parent_of: dict[Code, int | None]
    mean: Reals
    deviation: Reals
    improvement: Reals
    acquisition: Reals
    agreement: float
    scores: int
    parents_fitted: Reals
    """The fitted means of the parents of the pool, and of the best scored code that is not a parent."""

    @property
    def hands_over(self) -> bool:
        """Whether evolution decides the birth, because scores and predictions do not agree."""
        return self.scores >= WATCHED_SCORES and self.agreement < MIN_AGREEMENT


class GuidedProposal(NamedTuple):
    """A proposed code with its prediction, and the birth from which it is derived (None for a random code)."""

    code: Code
    parent_birth: int | None
    prediction: BirthPrediction


def min_scores(sources: Sequence[SourceModel]) -> int:
    """Return the number of scores that the model needs.

    With sources, one score is enough, because the models of the sources replace scores.
    """
    return 1 if sources else GUIDED_MIN_SCORES


def count_fitted_births(visible: int) -> int:
    """Return how many of the first births the model is fitted to; this number grows in steps of 30%."""
    size = float(GUIDED_MIN_SCORES)
    while size * MODEL_GROWTH <= visible:
        size *= MODEL_GROWTH
    return int(size)


def fit_model(
    encoding: Encoding, rows: Sequence[ScoredCode], births: int, sources: Sequence[SourceModel] = ()
) -> ProcessModel:
    """Choose the kernel, the noise and the slopes from `rows`, the scored births among the first `births` births."""
    if sources and not rows:
        return model_of_sources(sources)._replace(births=births)
    points = _points(encoding, [row.code for row in rows])
    model = choose_model(encoding, points, rank_targets(rows), centre(predict_all(sources, points)))
    return model._replace(births=births)


def fit_source(encoding: Encoding, rows: Sequence[ScoredCode], model: ProcessModel | None = None) -> SourceModel:
    """Return the model of a source from its scored births.

    If `model` is None, choose the kernel and the noise from these births, too.
    """
    points, targets = _points(encoding, [row.code for row in rows]), rank_targets(rows)
    return SourceModel.fit(encoding, model or choose_model(encoding, points, targets), points, targets)


def model_of_sources(sources: Sequence[SourceModel]) -> ProcessModel:
    """Return the model of a search without scores.

    This model has the kernel and noise of the first source, and its prior mean is half the mean of the sources'
    predictions.
    """
    return sources[0].posterior.model._replace(births=0, slopes=(0.5 / len(sources),) * len(sources))


def centre(expected: Reals) -> Reals:
    """Subtract the mean over the points from the predictions of each source. `expected` has shape (points, sources).

    The targets of different searches have no common level, so only differences between points are comparable.
    """
    return expected - expected.mean(0) if len(expected) else expected


def propose(
    space: CodeSpace,
    model: ProcessModel,
    rows: Sequence[ScoredCode],
    pending: Sequence[Code],
    rng: KeyedRng,
    accepts: Callable[[Code], bool],
    sources: Sequence[SourceModel] = (),
    *,
    seconds: Seconds | None = None,
) -> GuidedProposal | None:
    """Return the accepted code with the largest expected improvement, or None if evolution should decide.

    With `seconds`, return the code with the largest expected improvement per predicted second.

    Evolution should decide if there are fewer than `min_scores` scores, if predictions and scores do not agree, or if
    no code is accepted. `rows` holds at most `MAX_ROWS` scored births, and `pending` the codes whose scores are not
    visible yet.
    """
    pool = evaluate_pool(space, model, rows, pending, rng, sources, seconds=seconds)
    if pool is None or pool.hands_over:
        return None
    chosen = _choose(pool.codes, pool.acquisition, rng, accepts)
    if chosen is None:
        return None
    place, margin = chosen
    mean, deviation = float(pool.mean[place]), float(pool.deviation[place])
    low, middle, high = _as_fitness(rows, rank_targets(rows), mean + deviation * np.array([-1.0, 0.0, 1.0]))
    prediction = BirthPrediction(
        low=low,
        middle=middle,
        high=high,
        mean=mean,
        deviation=deviation,
        improvement=float(pool.improvement[place]),
        margin=margin,
        agreement=pool.agreement,
        scores=len(rows),
        model_births=model.births,
        kernel=tuple(model.kernel),
        noise=model.noise,
        slopes=model.slopes or None,
    )
    code = pool.codes[place]
    return GuidedProposal(code, pool.parent_of[code], prediction)


def evaluate_pool(
    space: CodeSpace,
    model: ProcessModel,
    rows: Sequence[ScoredCode],
    pending: Sequence[Code],
    rng: KeyedRng,
    sources: Sequence[SourceModel] = (),
    *,
    seconds: Seconds | None = None,
) -> EvaluatedPool | None:
    """Return the codes to choose from with their predictions, or None if there are too few scores."""
    if len(rows) < min_scores(sources):
        return None
    encoding, targets = space.encoding, rank_targets(rows)
    points = _points(encoding, [row.code for row in rows])
    # A source with slope 0 has no influence, so it needs no prediction.
    used = [source for slope, source in zip(model.slopes, sources, strict=True) if slope]
    slopes = [slope for slope in model.slopes if slope]
    expected = predict_all(used, points)
    residuals = targets - prior_mean(slopes, centre(expected)) if used else targets
    posterior = Posterior.fit(encoding, model, points=points, targets=residuals, pending=_points(encoding, pending))
    fitted = posterior.fitted(targets)
    best_first = sorted(range(len(rows)), key=lambda row: (-round(float(fitted[row]) / TOLERANCE), rows[row].birth))
    parent_of = _collect_pool(space, [rows[row] for row in best_first[:PARENTS]], rng)
    codes = list(parent_of)
    pool = _points(encoding, codes)
    mean, deviation = posterior.predict(pool)
    if used:
        mean = mean + prior_mean(slopes, predict_all(used, pool) - expected.mean(0))
    improvement = expected_improvement(mean, deviation, float(fitted.max()))
    return EvaluatedPool(
        codes=codes,
        parent_of=parent_of,
        mean=mean,
        deviation=deviation,
        improvement=improvement,
        acquisition=improvement if seconds is None else improvement / seconds(codes),
        agreement=posterior.agreement(targets),
        scores=len(rows),
        parents_fitted=fitted[best_first[: PARENTS + 1]],
    )


def expected_improvement(mean: Reals, deviation: Reals, best: float) -> Reals:
    """Return the expected improvement over `best` at each point, with the shape of `mean` and `deviation`.

    See Jones, Schonlau and Welch, Efficient Global Optimization (1998), equation 15.
    """
    gain = mean - best
    standardized = gain / deviation
    density = np.exp(-0.5 * standardized**2) / np.sqrt(2 * np.pi)
    return np.asarray(gain * ndtr(standardized) + deviation * density, dtype=np.float64)


def _collect_pool(space: CodeSpace, parents: Sequence[ScoredCode], rng: KeyedRng) -> dict[Code, int | None]:
    """Return neighbours and mutants of the parents, and random codes, each with the birth of its first parent."""
    pool: dict[Code, int | None] = {}
    for parent in parents:
        for neighbour in space.neighbours(parent.code):
            pool.setdefault(neighbour, parent.birth)
    for parent in parents:
        for count in range(MUTANTS):
            mutant = space.mutate(parent.code, 2 + count % 2, rng)
            if mutant is not None:
                pool.setdefault(mutant, parent.birth)
    for _ in range(RANDOM_CODES):
        pool.setdefault(space.sample(rng), None)
    return pool


def _choose(
    pool: Sequence[Code], acquisition: Reals, rng: KeyedRng, accepts: Callable[[Code], bool]
) -> tuple[int, float] | None:
    """Return the index of the accepted code with the largest acquisition, and its lead over the next code.

    If other codes are within `TOLERANCE` of the best one, a random draw decides between them.
    """
    tied: list[int] = []
    for place in sorted(range(len(pool)), key=lambda place: (-acquisition[place], pool[place])):
        lead = float(acquisition[tied[0]] - acquisition[place]) if tied else 0.0
        if lead > TOLERANCE:
            return rng.choice(sorted(tied, key=lambda tied_place: pool[tied_place])), lead
        if accepts(pool[place]):
            tied.append(place)
    return (rng.choice(sorted(tied, key=lambda tied_place: pool[tied_place])), 0.0) if tied else None


def _points(encoding: Encoding, codes: Sequence[Code]) -> Points:
    return make_points(encoding, as_array(codes, len(encoding.levels)))


def rank_targets(rows: Sequence[ScoredCode]) -> Reals:
    """Return the normal scores of births, ranked by rung and score, with shape (rows,)."""
    order = {key: place for place, key in enumerate(sorted({(row.rung, row.score) for row in rows}))}
    return normal_scores(np.array([float(order[row.rung, row.score]) for row in rows]))


def _as_fitness(rows: Sequence[ScoredCode], targets: Reals, values: Reals) -> tuple[float, float, float]:
    """Map the three normal scores in `values` to fitness by interpolation between the scores of the rows."""
    order = np.argsort(targets, kind="stable")
    low, middle, high = np.interp(values, targets[order], np.array([row.score for row in rows])[order])
    return float(low), float(middle), float(high)
