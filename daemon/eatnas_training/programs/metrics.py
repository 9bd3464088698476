"""Check the metrics that a user's own training function reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, SupportsFloat

from eatnas_db.domain.objective import MAX_SCORE, require_metric_name
from eatnas_training.failures import DivergedError
from eatnas_training.programs.errors import InvalidReportError

MAX_METRICS: Final = 32
COLUMNS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
"""The metrics of an epoch that have their own columns in the record."""


def check_metrics(metrics: Mapping[str, Any], *, epoch: int, objective: str) -> dict[str, float]:
    """Return the metrics of an epoch as numbers.

    Raises `DivergedError` for a number that is not finite or too large. Raises `InvalidReportError` for a wrong name or
    value.
    """
    if objective not in metrics:
        reported = ", ".join(sorted(map(str, metrics))) or "none"
        raise InvalidReportError(
            f"epoch {epoch} has no {objective}, the objective.metric of the search (reported: {reported})"
        )
    if len(metrics) > MAX_METRICS:
        raise InvalidReportError(f"epoch {epoch} has {len(metrics)} metrics; at most {MAX_METRICS} are recorded")
    return {_check_name(name): _check_value(name, value, epoch) for name, value in metrics.items()}


def _check_name(name: str) -> str:
    try:
        require_metric_name(name)
    except ValueError as error:
        raise InvalidReportError(str(error)) from None
    return name


def _check_value(name: str, value: Any, epoch: int) -> float:
    try:
        if isinstance(value, bool | str) or not isinstance(value, SupportsFloat):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidReportError(f"{name} of epoch {epoch} is {_shorten(value)}, not a number") from None
    if not math.isfinite(number):
        raise DivergedError(f"{name} is {number} in epoch {epoch}")
    if abs(number) > MAX_SCORE:
        raise DivergedError(f"{name} is {number} in epoch {epoch}, which is over {MAX_SCORE:g}, so sums would overflow")
    return number


def _shorten(value: Any) -> str:
    return " ".join(repr(value).split())[:80]
