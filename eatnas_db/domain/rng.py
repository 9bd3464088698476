"""Random numbers: every stream of draws is keyed by a seed, a purpose and indices, never by time or global state.

Draws with the same key are equal on every machine and in every Python version; golden values in the tests pin them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class KeyedRng:
    """The stream of draws of one key: blake2b in counter mode, 64 bits per draw."""

    def __init__(self, seed: int, purpose: str, *indices: int) -> None:
        key = ":".join([str(seed), purpose, *map(str, indices)])
        self._keyed = hashlib.blake2b(f"{key}#".encode(), digest_size=8, person=b"eatnas-db")
        self._drawn = 0

    def bits(self) -> int:
        """Return a uniformly distributed 64-bit integer."""
        block = self._keyed.copy()  # a copy takes half as long as a new hash of the key
        block.update(b"%d" % self._drawn)
        self._drawn += 1
        return int.from_bytes(block.digest(), "big")

    def randbelow(self, bound: int) -> int:
        """Return an exactly uniform integer from 0 to `bound - 1`. Raises `ValueError` if `bound` is below 1."""
        if bound < 1:
            raise ValueError(f"bound must be at least 1, got {bound}")
        limit = 2**64 - 2**64 % bound
        while (value := self.bits()) >= limit:
            pass
        return value % bound

    def choice(self, values: Sequence[T]) -> T:
        """Return a random element of `values`."""
        return values[self.randbelow(len(values))]

    def sample(self, bound: int, count: int) -> list[int]:
        """Return `count` distinct integers below `bound` in the order drawn (Floyd's algorithm).

        Raises `ValueError` if `count` is larger than `bound`.
        """
        if count > bound:
            raise ValueError(f"cannot draw {count} distinct numbers below {bound}")
        drawn: list[int] = []
        for top in range(bound - count, bound):
            value = self.randbelow(top + 1)
            drawn.append(top if value in drawn else value)
        return drawn


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """Return a 63-bit seed for another generator, such as torch's."""
    return KeyedRng(seed, purpose, *indices).bits() >> 1
