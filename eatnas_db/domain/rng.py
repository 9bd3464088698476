"""All randomness: a stream of draws keyed by (seed, purpose, indices), never by time or global state.

Two draws with one key are equal on every machine, Python and year; golden values in the tests pin them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class KeyedRng:
    """The stream of draws that belongs to one key: blake2b in counter mode, 64 bits a draw."""

    def __init__(self, seed: int, purpose: str, *indices: int) -> None:
        self._key = ":".join([str(seed), purpose, *map(str, indices)]).encode()
        self._drawn = 0

    def bits(self) -> int:
        """A whole number, uniform over 64 bits."""
        block = hashlib.blake2b(
            self._key + b"#" + str(self._drawn).encode(), digest_size=8, person=b"eatnas-db"
        ).digest()
        self._drawn += 1
        return int.from_bytes(block, "big")

    def below(self, bound: int) -> int:
        """A whole number from 0 to `bound - 1`, exactly uniform."""
        if bound < 1:
            raise ValueError(f"nothing to draw below {bound}")
        limit = 2**64 - 2**64 % bound
        while (value := self.bits()) >= limit:
            pass
        return value % bound

    def choice(self, values: Sequence[T]) -> T:
        """One of `values`."""
        return values[self.below(len(values))]

    def distinct(self, bound: int, count: int) -> list[int]:
        """`count` different whole numbers below `bound`, in the order drawn (Floyd's algorithm)."""
        if count > bound:
            raise ValueError(f"{count} distinct numbers do not fit below {bound}")
        drawn: list[int] = []
        for top in range(bound - count, bound):
            value = self.below(top + 1)
            drawn.append(top if value in drawn else value)
        return drawn


def derived_seed(seed: int, purpose: str, *indices: int) -> int:
    """A seed of 63 bits for somebody else's generator (torch's), derived from ours."""
    return KeyedRng(seed, purpose, *indices).bits() >> 1
