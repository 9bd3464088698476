"""Compute the fitness of a candidate from a metric and a cost. A better candidate has a larger fitness."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from eatnas_db.domain.cost import Cost

VALIDATION_ACCURACY: Final = "val_accuracy"
"""The metric that a search optimizes by default."""
VALIDATION_LOSS: Final = "val_loss"
BUILT_IN_METRICS: Final = (VALIDATION_ACCURACY, VALIDATION_LOSS)
"""The metrics that the built-in training measures after each epoch."""
TEST_ACCURACY: Final = "test_accuracy"
"""The metric of final models; no decision of a search depends on it."""
PARAMS: Final = "params"
MULT_ADDS: Final = "mult_adds"
LATENCY: Final = "latency_ms"
COST_METRICS: Final = (LATENCY, PARAMS, MULT_ADDS)
"""The metrics that a list of objectives may contain although no training measures them."""
MAX_SCORE: Final = 1e150
"""The largest value of a metric that is accepted, so that sums of squared scores stay finite."""
METRIC_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}$"
"""The pattern of metric names: the tables store up to 32 characters, and MLflow permits only these characters."""
RESERVED_METRICS: Final = frozenset(
    {
        *(TEST_ACCURACY, "test_loss", LATENCY, PARAMS, MULT_ADDS),
        *("fitness", "device_seconds", "share_inherited", "lineage_epochs"),
        *("id", "birth", "code", "origin", "parent_birth", "rung", "changed", "deviation", "values"),
        *("reevaluation", "reevaluation_spread", "reevaluation_seeds", "reevaluation_epochs"),
        *("test", "test_spread", "test_seeds", "test_weights_from"),
        *("number", "attempt", "seconds", "ended_at", "memory_bytes", "load", "metrics"),
    }
)
"""Names that the record, MLflow or the columns of queries use for other values.

No metric of a user's own training function may have one of these names.
"""


class Direction(StrEnum):
    """The direction in which a metric improves."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits on the cost of a proposed architecture; None means no limit."""

    max_params: int | None = None
    max_mult_adds: int | None = None

    def allow(self, cost: Cost) -> bool:
        """Return whether a network of this cost may be proposed."""
        return (self.max_params is None or cost.params <= self.max_params) and (
            self.max_mult_adds is None or cost.mult_adds <= self.max_mult_adds
        )


@dataclass(frozen=True, slots=True)
class Objective:
    """The metric that a search optimizes, its direction, and the weight of the cost."""

    metric: str = VALIDATION_ACCURACY
    direction: Direction = Direction.MAXIMIZE
    target_mult_adds: int | None = None
    exponent: float = 0.0

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Objective:
        """Return the objective of a stored spec, which leaves out `metric` and `direction` at their defaults.

        With several objectives, return the first one that the training measures.
        """
        section = spec["objective"]
        for entry in section.get("metrics") or ():
            if entry["metric"] not in COST_METRICS:
                return cls(entry["metric"], Direction(entry["direction"]))
        return cls(
            metric=section.get("metric", VALIDATION_ACCURACY),
            direction=Direction(section.get("direction", Direction.MAXIMIZE)),
            target_mult_adds=section["target_mult_adds"],
            exponent=section["exponent"],
        )

    @property
    def column(self) -> str:
        """The name of the metric's column in the answer of a query."""
        return "accuracy" if self.metric == VALIDATION_ACCURACY else self.metric

    @property
    def label(self) -> str:
        """The name of the metric for charts and sentences."""
        return "validation accuracy" if self.metric == VALIDATION_ACCURACY else self.metric

    @property
    def better(self) -> str:
        """The word for a better value of the metric."""
        return "higher" if self.direction is Direction.MAXIMIZE else "lower"

    def fitness(self, value: float, mult_adds: int) -> float:
        """Return the fitness of a candidate with this value of the metric and this cost; larger is better."""
        return fitness(value, mult_adds, self.target_mult_adds, self.exponent, self.direction)

    def is_better(self, value: float, other: float) -> bool:
        """Return whether `value` of the metric is better than `other`."""
        return value > other if self.direction is Direction.MAXIMIZE else value < other


def require_metric_name(name: str) -> None:
    """Raise `ValueError` unless a user's own training function may report a metric with this name."""
    if re.fullmatch(METRIC_PATTERN, name) is None:
        raise ValueError(
            f"{name!r} is not a valid metric name: use up to 32 letters, digits, `_`, `.` and `-`, and begin with a "
            "letter or `_`"
        )
    if name in RESERVED_METRICS:
        raise ValueError(f"the metric {name} is reserved for the record; choose another name")


def fitness(
    value: float,
    mult_adds: int,
    target: int | None = None,
    exponent: float = 0.0,
    direction: Direction = Direction.MAXIMIZE,
) -> float:
    """Return `value * (mult_adds / target) ** exponent`, as in MnasNet (arXiv 1807.11626).

    The sign of a metric to minimize is inverted, so that a larger fitness is always better. A negative value is divided
    by the power instead of being multiplied by it, so that a higher cost also lowers a negative fitness.
    """
    signed = value if direction is Direction.MAXIMIZE else -value
    if target is None:
        return signed
    factor = float((mult_adds / target) ** exponent)
    return signed * factor if signed >= 0 else signed / factor
