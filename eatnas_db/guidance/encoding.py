"""Codes as vectors of integers, and the features by which the model compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Code = tuple[int, ...]
"""The index of the value at each position of an architecture."""
Codes = NDArray[np.int64]
"""An array with shape (codes, positions)."""
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Encoding:
    """The positions of a code: for each position, the number of values, whether they are ordered, and the primitive's
    number.

    Positions of one primitive have the same values, for instance the kernels of all blocks.
    """

    levels: tuple[int, ...]
    ordered: tuple[bool, ...]
    primitives: tuple[int, ...]

    def distances(self, left: Codes, right: Codes) -> Reals:
        """Return the distance of each pair of codes, from 0 to 1, with shape (left, right).

        The distance is the mean over the positions. At a position, two different values have the distance 1 or, if the
        values are ordered, their difference in rank as a share of the largest difference.
        """
        return np.asarray(cdist(self._coordinates(left), self._coordinates(right), "cityblock")) / len(self.levels)

    def totals(self, codes: Codes) -> Reals:
        """Return how often each primitive has each value, as a share of the primitive's positions, with shape (codes,
        values).
        """
        columns = []
        for primitive, positions in self._positions.items():
            part = codes[:, positions]
            columns += [(part == value).mean(1) for value in range(self._levels_of(primitive))]
        return np.stack(columns, 1)

    def running_totals(self, codes: Codes) -> Reals:
        """Return the totals over each primitive's first position, over its first two positions, and so on up to all its
        positions.

        Each total is a share of all positions of the primitive, and is scaled so that the squared distance of two codes
        is a mean over the positions. Codes are close if they have the same values at nearby positions.
        """
        columns = []
        for primitive, positions in self._positions.items():
            part = codes[:, positions]
            for value in range(self._levels_of(primitive)):
                columns += list((part == value).cumsum(1).T / len(positions) ** 1.5)
        return np.stack(columns, 1)

    def _coordinates(self, codes: Codes) -> Reals:
        """Return one row of coordinates for each code; the cityblock distance of two rows is the sum of the distances
        at the positions.
        """
        columns = []
        for position, level in enumerate(self.levels):
            if self.ordered[position]:
                columns.append(codes[:, position] / max(level - 1, 1))
            else:
                columns += [(codes[:, position] == value) / 2 for value in range(level)]
        return np.stack(columns, 1)

    @cached_property
    def _positions(self) -> dict[int, list[int]]:
        positions: dict[int, list[int]] = {}
        for position, primitive in enumerate(self.primitives):
            positions.setdefault(primitive, []).append(position)
        return positions

    def _levels_of(self, primitive: int) -> int:
        return self.levels[self._positions[primitive][0]]


def as_array(codes: Sequence[Code], positions: int) -> Codes:
    """Return codes as an array with shape (codes, positions), even if there are no codes."""
    return np.array(codes, dtype=np.int64).reshape(len(codes), positions)
