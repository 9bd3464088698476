"""Keep the global random generators repeatable while a user's own training function runs.

Layers and dropout draw from torch's global generator, so this generator is seeded after each epoch and each checkpoint.
A function must not draw from the global generators of `random` and NumPy, because nothing restores them when a training
resumes.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from eatnas_db.domain.rng import derive_seed
from eatnas_training.programs.errors import InvalidReportError


class GlobalGenerators:
    """The global generators of this process while a training runs."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states = _read_states()

    def seed_for(self, epoch: int, checkpoint: int) -> None:
        """Seed torch's generators from the number of the current epoch and the number of its checkpoints so far."""
        torch.manual_seed(derive_seed(self._seed, "program", epoch, checkpoint))

    def require_unused(self) -> None:
        """Raise `InvalidReportError` if the program has drawn from a generator that cannot be restored."""
        for name, state in _read_states().items():
            if not _equal(state, self._states[name]):
                raise InvalidReportError(
                    f"the program draws from the global generator of {name}, so a resumed training would differ; "
                    f"draw from {_ADVICE[name]}"
                )


_ADVICE = {"random": "random.Random(task.seed)", "numpy.random": "numpy.random.default_rng(task.seed)"}


def _read_states() -> dict[str, Any]:
    return {"random": random.getstate(), "numpy.random": np.random.get_state(legacy=True)}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
