"""The metrics, directions and values of several objectives, as a stored spec describes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eatnas_db.domain.dominance import Values, hypervolume
from eatnas_db.domain.objective import (
    COST_METRICS,
    LATENCY,
    VALIDATION_ACCURACY,
    VALIDATION_LOSS,
    Direction,
)
from eatnas_db.errors import MetricError

DIRECTIONS: Final = {
    VALIDATION_ACCURACY: Direction.MAXIMIZE,
    VALIDATION_LOSS: Direction.MINIMIZE,
    **dict.fromkeys(COST_METRICS, Direction.MINIMIZE),
}
"""The metrics that a search with the built-in training may optimize, with their default directions."""

MIN_OBJECTIVES: Final = 2
MAX_OBJECTIVES: Final = 4
MAX_POPULATION: Final = {2: 1000, 3: 200, 4: 200}
"""The largest population for each number of objectives. The limits exist because each birth compares all pairs of
members.
"""


@dataclass(frozen=True, slots=True)
class LatencySettings:
    """The measurement of a network's latency: the median time of `runs` batches on a kind of device.

    `device` is `cpu` or `cuda`; `threads` applies to `cpu` only.
    """

    device: str
    batch: int
    threads: int
    runs: int


@dataclass(frozen=True, slots=True)
class OptimizedMetric:
    """One of several metrics to optimize.

    `reference` is the value of the metric in the hypervolume's reference point, if the spec sets it.
    """

    metric: str
    direction: Direction
    reference: float | None = None
    latency: LatencySettings | None = None

    def describe(self) -> str:
        """Return the metric, its direction and the settings of its measurement."""
        direction = f"{self.direction} {self.metric}"
        if self.latency is None:
            return direction
        device = self.latency.device + (f", {self.latency.threads} threads" if self.latency.threads > 1 else "")
        return f"{direction} ({device}, batch {self.latency.batch}, median of {self.latency.runs})"

    def orient(self, value: float) -> float:
        """Return `value`, negated if the metric is minimized, so that a greater number is better."""
        return value if self.direction is Direction.MAXIMIZE else -value


def list_objectives(spec: Mapping[str, Any]) -> tuple[OptimizedMetric, ...]:
    """Return the objectives of a stored spec, or an empty tuple if the search has a single objective."""
    return tuple(_read_objective(entry) for entry in spec["objective"].get("metrics") or ())


def _read_objective(entry: Mapping[str, Any]) -> OptimizedMetric:
    latency = None
    if entry["metric"] == LATENCY:
        latency = LatencySettings(*(entry[key] for key in ("device", "batch", "threads", "runs")))
    return OptimizedMetric(entry["metric"], Direction(entry["direction"]), entry.get("reference"), latency)


def latency_settings(objectives: Iterable[OptimizedMetric]) -> LatencySettings | None:
    """Return how latency is measured, or None if latency is not an objective.

    If latency is an objective, births depend on the machine.
    """
    return next((objective.latency for objective in objectives if objective.latency is not None), None)


def select_values(objectives: Sequence[OptimizedMetric], metrics: Mapping[str, float]) -> tuple[float, ...]:
    """Return the value of each objective. Raises `MetricError` if a metric is missing or not finite."""
    values = []
    for objective in objectives:
        value = metrics.get(objective.metric)
        if value is None or not math.isfinite(value):
            found = "has no value" if value is None else f"is {value}"
            raise MetricError(f"the objective {objective.metric} {found}")
        values.append(float(value))
    return tuple(values)


def orient_values(objectives: Sequence[OptimizedMetric], values: Sequence[float]) -> Values:
    """Return the values of the objectives, negated for minimized metrics, so that a greater number is better."""
    return tuple(objective.orient(value) for objective, value in zip(objectives, values, strict=True))


def choose_reference(
    objectives: Sequence[OptimizedMetric], initial: Sequence[Sequence[float]]
) -> tuple[float, ...] | None:
    """Return the reference point of the hypervolume.

    The coordinate of an objective is its reference in the spec. If the spec sets no reference, the coordinate is 0 for
    the validation accuracy, and the worst value among the `initial` births for any other metric. Return None if a worst
    value is needed and there are no initial births.
    """
    reference = []
    for number, objective in enumerate(objectives):
        if objective.reference is not None:
            reference.append(objective.reference)
        elif objective.metric == VALIDATION_ACCURACY and objective.direction is Direction.MAXIMIZE:
            reference.append(0.0)
        elif initial:
            reference.append(min((values[number] for values in initial), key=objective.orient))
        else:
            return None
    return tuple(reference)


def relative_hypervolume(
    objectives: Sequence[OptimizedMetric], vectors: Iterable[Values], reference: Sequence[float]
) -> float:
    """Return the hypervolume of `vectors`, which `orient_values` returned.

    The unit of an objective is the absolute value of its reference, or 1 if the reference is 0. With the default
    references of the accuracy and a cost, the result is from 0 to 1.
    """
    units = [abs(value) or 1.0 for value in reference]
    points = [tuple(value / unit for value, unit in zip(vector, units, strict=True)) for vector in vectors]
    oriented = orient_values(objectives, reference)
    return hypervolume(points, tuple(value / unit for value, unit in zip(oriented, units, strict=True)))
