"""Check the metrics that a training of the user's own reports."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, SupportsFloat

from eatnas_db.domain.objective import METRIC_PATTERN
from eatnas_training.failures import DivergedError
from eatnas_training.programs.errors import InvalidReportError

MAX_METRICS: Final = 32
RESERVED: Final = frozenset(
    {
        "test_accuracy",
        "test_loss",
        "fitness",
        "params",
        "mult_adds",
        "device_seconds",
        "seconds",
        "share_inherited",
        "lineage_epochs",
    }
)
"""Names that the record and MLflow use for other values."""
COLUMNS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
"""The metrics of an epoch with a column of their own."""


def check_metrics(metrics: Mapping[str, Any], *, epoch: int, objective: str) -> dict[str, float]:
    """Return the metrics of an epoch as numbers.

    Raises `DivergedError` for a number that is not finite, and `InvalidReportError` for a wrong name or value.
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
    if re.fullmatch(METRIC_PATTERN, name) is None:
        raise InvalidReportError(
            f"{name!r} is no name of a metric: use up to 32 letters, digits, `_`, `.` and `-`, and begin with a letter"
        )
    if name in RESERVED:
        raise InvalidReportError(f"the metric {name} is reserved for the record; choose another name")
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
    return number


def _shorten(value: Any) -> str:
    return " ".join(repr(value).split())[:80]
