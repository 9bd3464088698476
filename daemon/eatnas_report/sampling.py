"""Even samples of long histories, so that a figure stays readable and small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sample_evenly(rows: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` rows, evenly spaced, the first and the last among them."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(number * (len(rows) - 1) / (limit - 1))] for number in range(limit)]
