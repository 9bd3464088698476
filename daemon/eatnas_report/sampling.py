"""Sample long histories evenly, so that figures stay readable and small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sample_evenly(rows: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` evenly spaced rows, including the first and the last."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(number * (len(rows) - 1) / (limit - 1))] for number in range(limit)]
