"""The models of source searches. Their predictions form the prior mean of a transferred search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eatnas_db.guidance.encoding import Encoding, Reals
from eatnas_db.guidance.gaussian_process import Points, Posterior, ProcessModel


@dataclass(frozen=True)
class SourceModel:
    """The model of a finished search: a Gaussian process conditioned on the normal scores of its births."""

    posterior: Posterior

    @classmethod
    def fit(cls, encoding: Encoding, model: ProcessModel, points: Points, targets: Reals) -> SourceModel:
        """Condition the process on the targets of all scored points of the source, with shape (points,)."""
        return cls(Posterior.fit(encoding, model, points=points, targets=targets, pending=points.select(slice(0, 0))))

    def predict(self, points: Points) -> Reals:
        """Return the expected normal score at each point, with shape (points,)."""
        return self.posterior.mean(points)


def predict_all(sources: Sequence[SourceModel], points: Points) -> Reals:
    """Return the predictions of each source at each point, with shape (points, sources)."""
    return np.stack([source.predict(points) for source in sources], 1) if sources else np.zeros((len(points), 0))
