"""Find the Pareto front of many vectors with NumPy. `domain.dominance` defines the front without NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eatnas_db.database.batches import split_in_batches
from eatnas_db.domain.dominance import Values, find_front

FEW_VECTORS: Final = 1000
"""Up to this number of vectors, plain Python is fast enough, and NumPy need not be loaded."""
BLOCK: Final = 256
MAXIMUM_EXACT: Final = 2**53
"""The largest integer up to which floats are exact: larger integers would be rounded, which could change comparisons.
"""


def find_front_of_many(vectors: Sequence[Values]) -> list[int]:
    """Return the same positions as `domain.dominance.find_front`."""
    if len(vectors) <= FEW_VECTORS or len(vectors[0]) == 2 or not all(map(_is_exact, vectors)):
        return find_front(vectors)
    try:
        import numpy as np  # import NumPy only here, because loading it takes time
    except ImportError:  # eatnas-db-core does not require NumPy
        return find_front(vectors)

    # This order puts each vector after all vectors that dominate it, and after the first vector that equals it.
    order = sorted(range(len(vectors)), key=vectors.__getitem__, reverse=True)
    values = np.array([vectors[position] for position in order], dtype=np.float64)
    front: list[int] = []
    for start in range(0, len(order), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(order)))
        for rivals in split_in_batches(front):
            block = block[~_at_least(values[rivals], values[block]).any(axis=0)]
        earlier = np.triu(_at_least(values[block], values[block]), k=1)
        front += block[~earlier.any(axis=0)].tolist()
    return sorted(order[place] for place in front)


def _at_least(first: Any, second: Any) -> Any:
    """Return the matrix that says whether `first[i]` is at least as good as `second[j]` in every objective."""
    better = first[:, None, 0] >= second[None, :, 0]
    for objective in range(1, first.shape[1]):
        better &= first[:, None, objective] >= second[None, :, objective]
    return better


def _is_exact(vector: Values) -> bool:
    return all(isinstance(value, float) or abs(value) <= MAXIMUM_EXACT for value in vector)
