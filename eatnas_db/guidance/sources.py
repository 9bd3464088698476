"""The models of other searches, whose predictions are the prior mean of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eatnas_db.guidance.encoding import Encoding, Reals
from eatnas_db.guidance.process import Points, Posterior, ProcessModel


@dataclass(frozen=True)
class SourceModel:
    """The model of a finished search: a process conditioned on its scores, in normal scores of that search."""

    posterior: Posterior

    @classmethod
    def fit(cls, encoding: Encoding, model: ProcessModel, points: Points, targets: Reals) -> SourceModel:
        """Condition the process on all scores of the source."""
        return cls(Posterior.fit(encoding, model, points=points, targets=targets, pending=points.select(slice(0, 0))))

    def predict(self, points: Points) -> Reals:
        """Return the expected normal score at each point."""
        return self.posterior.mean(points)


def predict_all(sources: Sequence[SourceModel], points: Points) -> Reals:
    """Return the predictions of each source at each point, with shape (points, sources)."""
    return np.stack([source.predict(points) for source in sources], 1) if sources else np.zeros((len(points), 0))
