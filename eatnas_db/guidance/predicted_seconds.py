"""Predict the device seconds of a training from the mult-adds of its network, without any measured time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

import numpy as np

from eatnas_db.guidance.encoding import Reals

FIXED_SHARE: Final = 1 / 3
"""The share of the median network's seconds that does not depend on mult-adds, as measured in our searches."""


def predict_seconds(mult_adds: Sequence[int], scored: Sequence[int]) -> Reals:
    """Return the predicted seconds of networks with these mult-adds, relative to the median scored network.

    `scored` are the mult-adds of the scored networks. The result has shape (networks,).
    """
    median = max(statistics.median(scored), 1)
    return FIXED_SHARE + (1 - FIXED_SHARE) * np.array(mult_adds, dtype=np.float64) / median
