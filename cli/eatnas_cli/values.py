"""Convert values of answers to text and to JSON."""

from __future__ import annotations

import json
import math
from typing import Any


def as_text(value: Any) -> str:
    """Return a value as the text of a cell: empty for None, joined for a list of strings, JSON for other structures."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return "; ".join(value)
    return json.dumps(to_json(value), ensure_ascii=False) if isinstance(value, dict | list | tuple) else str(value)


def to_json(value: Any) -> Any:
    """Return a value that every JSON reader accepts: infinities and NaN become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_json(inner) for key, inner in value.items()}
    return [to_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def is_number(value: Any) -> bool:
    """Return whether a value is a number. Booleans do not count as numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: `1 training`, `2 trainings`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
