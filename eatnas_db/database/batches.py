"""Split long lists, because every database limits the number of parameters of a statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

MAX_VALUES: Final = 5000
"""The default size of a batch. A statement may have 32,766 parameters on SQLite and 65,535 on PostgreSQL, and a row
needs one parameter for each column.
"""


def split_in_batches(values: Sequence[T], size: int = MAX_VALUES) -> Iterator[Sequence[T]]:
    """Yield the values in order, in parts of at most `size`."""
    return (values[start : start + size] for start in range(0, len(values), size))
