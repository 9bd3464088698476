"""A Gaussian process over codes.

The formulas are from Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import ndtri

from eatnas_db.guidance.encoding import Codes, Encoding, Reals

SMALLEST_NOISE: Final = 0.01
SMALLEST_SCALE: Final = 1e-6
LIKELIHOOD_MARGIN: Final = 1e-6


class Kernel(NamedTuple):
    """A weighted sum of kernels: linear and exponential in the distance, Gaussian in the totals and running totals."""

    linear: float
    exponential: float
    gaussian: float
    decay: float
    length: float
    running: float = 0
    running_length: float = 1


KERNEL_CHOICES: Final = (
    Kernel(1, 0, 0, 1, 1),
    Kernel(0, 1, 0, 4, 1),
    Kernel(0, 1, 0, 10, 1),
    Kernel(0, 0, 1, 1, 0.5),
    Kernel(0, 0, 0, 1, 1, 1, 0.35),
    Kernel(0, 0, 0, 1, 1, 1, 0.6),
    Kernel(0.5, 0, 0, 1, 1, 0.5, 0.35),
    Kernel(0, 0.5, 0, 4, 1, 0.5, 0.35),
    Kernel(0, 0.5, 0, 10, 1, 0.5, 0.35),
    Kernel(0, 0.5, 0, 4, 1, 0.5, 0.6),
    Kernel(0, 0.5, 0.5, 4, 0.5),
    Kernel(0, 0, 0.5, 1, 0.5, 0.5, 0.35),
    Kernel(0, 0.33, 0.33, 10, 0.5, 0.34, 0.35),
)
NOISES: Final = (SMALLEST_NOISE, 0.03, 0.1, 0.25, 0.5, 1.0)
"""The variances of the noise, relative to the variance of the process."""


class ProcessModel(NamedTuple):
    """A kernel, a noise variance and the slopes of the sources, fitted to the scores of the first `births` births.

    The prior mean is the sum of the sources' predictions, each multiplied by the slope of its source. Without sources,
    the prior mean is 0.
    """

    kernel: Kernel
    noise: float
    births: int = 0
    slopes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Points:
    """Codes, with shape (points, positions), their `Encoding.totals` and their `Encoding.running_totals`."""

    codes: Codes
    totals: Reals
    running: Reals

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, rows: Sequence[int] | slice) -> Points:
        """Return the points with these indices."""
        return Points(self.codes[rows], self.totals[rows], self.running[rows])

    @classmethod
    def concatenate(cls, *parts: Points) -> Points:
        """Return the points of all parts."""
        return cls(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.totals for part in parts]),
            np.concatenate([part.running for part in parts]),
        )


def make_points(encoding: Encoding, codes: Codes) -> Points:
    """Return codes with their totals and running totals."""
    return Points(codes, encoding.totals(codes), encoding.running_totals(codes))


def normal_scores(scores: Reals) -> Reals:
    """Map scores by their ranks to the quantiles of a standard normal distribution. Equal scores get equal values."""
    ordered = np.sort(scores)
    ranks = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2
    return np.asarray(ndtri(ranks / len(scores)), dtype=np.float64)


def covariance(encoding: Encoding, kernel: Kernel, left: Points, right: Points) -> Reals:
    """Return the prior covariance of each pair of points, with shape (left, right)."""
    result = np.zeros((len(left), len(right)))
    if kernel.linear or kernel.exponential:
        distances = encoding.distances(left.codes, right.codes)
        result += kernel.linear * (1 - distances) + kernel.exponential * np.exp(-kernel.decay * distances)
    if kernel.gaussian:
        squares = cdist(left.totals, right.totals, "sqeuclidean")
        result += kernel.gaussian * np.exp(-squares / (2 * kernel.length**2))
    if kernel.running:
        squares = cdist(left.running, right.running, "sqeuclidean")
        result += kernel.running * np.exp(-squares / (2 * kernel.running_length**2))
    return result


def choose_model(encoding: Encoding, points: Points, targets: Reals, expected: Reals | None = None) -> ProcessModel:
    """Return the model with the largest marginal likelihood. The scale of each model is fitted to the targets.

    `targets` has shape (points,). `expected` has the predictions of the sources, with shape (points, sources).
    """
    best, best_likelihood = ProcessModel(KERNEL_CHOICES[0], NOISES[-1]), -np.inf
    for model, likelihood in likelihoods(encoding, points, targets, expected):
        # The margin keeps rounding from choosing between models of equal likelihood.
        if likelihood > best_likelihood + LIKELIHOOD_MARGIN:
            best, best_likelihood = model, likelihood
    return best


def likelihoods(
    encoding: Encoding, points: Points, targets: Reals, expected: Reals | None = None
) -> Iterator[tuple[ProcessModel, float]]:
    """Yield each combination of kernel, noise and slopes, with the logarithm of its marginal likelihood.

    The scale maximizes the likelihood, and a constant term is left out (Rasmussen and Williams, equation 5.8).
    `targets` has shape (points,), and `expected` has shape (points, sources).
    """
    count = len(targets)
    if expected is None:
        expected = np.zeros((count, 0))
    combinations = list_slopes(expected.shape[1])
    residuals: list[Reals] = [
        np.subtract(targets, prior_mean(slopes, expected)) if any(slopes) else targets for slopes in combinations
    ]
    for kernel in KERNEL_CHOICES:
        values, vectors = eigh(covariance(encoding, kernel, points, points))
        rotated = [(vectors.T @ residual) ** 2 for residual in residuals]
        for noise in NOISES:
            spectrum = np.maximum(values, 0) + noise
            complexity = float(np.log(spectrum).sum())
            for slopes, squares in zip(combinations, rotated, strict=True):
                scale = max(float((squares / spectrum).sum()) / count, SMALLEST_SCALE)
                model = ProcessModel(kernel, noise, slopes=slopes)
                yield model, -0.5 * (count * np.log(scale) + complexity)


def list_slopes(sources: int) -> list[tuple[float, ...]]:
    """Return the combinations of slopes: 0, 1/2 or 1 for each source, with a sum of at most 1.

    Slopes that are all 0 come first.
    """
    return [slopes for slopes in product((0.0, 0.5, 1.0), repeat=sources) if sum(slopes) <= 1]


def prior_mean(slopes: Sequence[float], expected: Reals) -> Reals:
    """Return the prior mean, with shape (points,), from the sources' predictions, with shape (points, sources)."""
    # Sum in a fixed order, because the rounding of a matrix product depends on the number of points.
    total = np.zeros(len(expected))
    for slope, column in zip(slopes, expected.T, strict=True):
        total += slope * column
    return total


@dataclass(frozen=True)
class Posterior:
    """The process conditioned on scored points and on pending points, whose targets are their predicted means.

    Pending points therefore change only the variance. See Rasmussen and Williams, equations 2.23 and 2.24.
    """

    encoding: Encoding
    model: ProcessModel
    points: Points
    scored: int
    """The number of scored points, which come first; the others are pending."""
    weights: Reals
    """The mean of a point is the dot product of these weights and the point's covariances with the scored points."""
    leverages: Reals
    """The diagonal of the inverse of the scored points' covariance matrix with noise."""
    factor: Reals
    scale: float

    @classmethod
    def fit(
        cls, encoding: Encoding, model: ProcessModel, *, points: Points, targets: Reals, pending: Points
    ) -> Posterior:
        """Condition the process on scored points and their targets, with shape (points,), and on pending points."""
        everything = Points.concatenate(points, pending)
        matrix = covariance(encoding, model.kernel, everything, everything)
        matrix[np.diag_indices_from(matrix)] += model.noise
        count = len(points)
        inverse = cho_solve((cholesky(matrix[:count, :count], lower=True), True), np.eye(count))
        weights = inverse @ targets
        return cls(
            encoding=encoding,
            model=model,
            points=everything,
            scored=count,
            weights=weights,
            leverages=np.diagonal(inverse).copy(),
            factor=cholesky(matrix, lower=True),
            scale=max(float(targets @ weights) / count, SMALLEST_SCALE),
        )

    def fitted(self, targets: Reals) -> Reals:
        """Return the mean at each scored point; `targets` must be the targets that `fit` received."""
        return targets - self.model.noise * self.weights

    def agreement(self, targets: Reals) -> float:
        """Return the correlation of the targets with their leave-one-out predictions; 0 if all targets are equal.

        See Rasmussen and Williams, equation 5.12.
        """
        left_out = targets - self.weights / self.leverages
        deviations = float(targets.std() * left_out.std())
        if deviations == 0:
            return 0.0
        return float(((targets - targets.mean()) * (left_out - left_out.mean())).mean()) / deviations

    def mean(self, points: Points) -> Reals:
        """Return the mean of the process at each point, with shape (points,)."""
        cross = covariance(self.encoding, self.model.kernel, points, self.points.select(slice(0, self.scored)))
        # Sum for each point separately, because the rounding of a matrix product depends on the other points.
        return np.asarray((cross * self.weights).sum(1), dtype=np.float64)

    def predict(self, points: Points) -> tuple[Reals, Reals]:
        """Return the mean and the standard deviation of the process, without noise, each with shape (points,)."""
        cross = covariance(self.encoding, self.model.kernel, points, self.points)
        mean = cross[:, : self.scored] @ self.weights
        solved = solve_triangular(self.factor, cross.T, lower=True)
        kernel = self.model.kernel
        prior = kernel.linear + kernel.exponential + kernel.gaussian + kernel.running
        variance = np.maximum(prior - (solved**2).sum(0), 1e-9)
        return mean, np.sqrt(variance * self.scale)
