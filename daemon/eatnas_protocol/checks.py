"""Check the fields of a report before the supervisor uses it. A damaged worker, or a worker of another version, may
send invalid values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, Final, get_args, get_type_hints

from eatnas_protocol.long_texts import shorten_middle
from eatnas_protocol.messages import Message, Report

MAX_INTEGER: Final = 2**63 - 1
"""The largest integer that the databases can store."""
MAX_SECONDS: Final = 1e12
"""The largest valid point in time and the largest valid duration, in seconds."""
Check = Callable[[Any], bool]


def check_report(message: Message) -> None:
    """Raise `ValueError` if a message is not a report, or if one of its fields has a wrong type or is out of range."""
    name = type(message).__name__
    if not isinstance(message, Report):
        raise ValueError(f"{name} is not a report")
    kind: Any = type(message)
    for field, check in _checks(kind).items():
        value = getattr(message, field)
        if not check(value):
            raise ValueError(f"{name}.{field} is {shorten_middle(repr(value))}, which is not a valid value")


@cache
def _checks(kind: type[Any]) -> dict[str, Check]:
    hints = get_type_hints(kind)
    return {field.name: _check(field.name, hints[field.name]) for field in fields(kind)}


def _check(name: str, annotation: Any) -> Check:
    if annotation is int:
        return _is_count
    if annotation is float:
        return _is_time if name.endswith(("seconds", "_at")) else _is_finite
    if annotation is bool:
        return lambda value: isinstance(value, bool)
    if annotation is str:
        return lambda value: isinstance(value, str)
    if annotation == dict[str, str]:
        return _is_text_by_text
    if annotation == dict[str, float]:
        return _is_number_by_text
    choices = [_check(name, choice) for choice in get_args(annotation) if choice is not type(None)]
    return lambda value: value is None or any(check(value) for check in choices)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_time(value: Any) -> bool:
    return _is_finite(value) and 0 <= value <= MAX_SECONDS


def _is_number_by_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and _is_finite(number) for key, number in value.items())


def _is_text_by_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
