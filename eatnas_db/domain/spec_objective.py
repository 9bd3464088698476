"""The part of the spec about several objectives: a section for each metric, and the rules for all metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from eatnas_db.domain.objective import COST_METRICS, LATENCY
from eatnas_db.domain.objectives import (
    DIRECTIONS,
    MAX_OBJECTIVES,
    MAX_POPULATION,
    MIN_OBJECTIVES,
)
from eatnas_db.domain.spec_errors import describe_unknown
from eatnas_db.domain.spec_section import SpecSection

REMOVAL_BY_RANK: Final = "worst"
"""The default removal rule in a search with several objectives."""
DEFAULT_RUNS: Final = 30


class MetricSpec(SpecSection):
    """One of several objectives. The keys `device`, `batch`, `threads` and `runs` apply to `latency_ms` only."""

    metric: str = Field(min_length=1, max_length=32)
    direction: Literal["maximize", "minimize"] | None = Field(
        None, description="default: the usual direction of the metric"
    )
    reference: float | None = Field(
        None,
        ge=-1e15,
        le=1e15,
        description="the metric's value in the hypervolume's reference point; default: 0 for "
        "accuracy, otherwise the worst initial value",
    )
    device: Literal["cpu", "cuda"] | None = None
    batch: int | None = Field(None, ge=1, le=4096)
    threads: int | None = Field(None, ge=1, le=1024)
    runs: int | None = Field(None, ge=3, le=10_000)

    stored_if_set = frozenset({"reference", "device", "batch", "threads", "runs"})

    @model_validator(mode="after")
    def _fill_in_defaults(self) -> MetricSpec:
        update: dict[str, Any] = {"direction": self.direction or DIRECTIONS.get(self.metric)}
        if self.metric == LATENCY:
            update |= {
                "device": self.device or "cpu",
                "batch": self.batch or 1,
                "threads": self.threads or 1,
                "runs": self.runs or DEFAULT_RUNS,
            }
        elif any((self.device, self.batch, self.threads, self.runs)):
            raise ValueError(f"device, batch, threads and runs apply to {LATENCY} only; remove them from {self.metric}")
        return self.model_copy(update=update)


def require_metrics(metrics: Sequence[MetricSpec], known: Collection[str]) -> None:
    """Raise `ValueError` unless the metrics are known, distinct and have a direction, and their number is allowed."""
    names = [entry.metric for entry in metrics]
    for entry in metrics:
        if entry.metric not in known:
            raise ValueError(describe_unknown(entry.metric, known, "metric"))
        if entry.direction is None:
            raise ValueError(f"{entry.metric} needs a direction: maximize or minimize")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} is given twice; give each metric once")
    if len(names) < MIN_OBJECTIVES:
        given = "none" if not names else f"only {names[0]}"
        raise ValueError(
            f"a list needs at least {MIN_OBJECTIVES} metrics and has {given}; add another, or describe a single "
            "objective without a list"
        )
    if len(names) > MAX_OBJECTIVES:
        raise ValueError(f"at most {MAX_OBJECTIVES} metrics are allowed, and the list has {len(names)}")
    if all(name in COST_METRICS for name in names):
        raise ValueError(
            f"{' and '.join(names)} say nothing about the quality of a network; add a metric of the training, such as "
            "val_accuracy"
        )


def require_population(metrics: Sequence[MetricSpec], population: int) -> None:
    """Raise `ValueError` if a population is too large to compare all pairs of its members at each birth."""
    largest = MAX_POPULATION[len(metrics)]
    if population > largest:
        raise ValueError(f"evolution.population is at most {largest} with {len(metrics)} metrics (given: {population})")


def expand_objectives(tree: Any) -> Any:
    """Return a spec in which a list of objectives has become the mapping `{metrics: …}`, with the default removal for
    several objectives.

    `tree` is not validated yet. A removal in the spec takes precedence over the default.
    """
    if not isinstance(tree, dict):
        return tree
    if isinstance(tree.get("objective"), list | tuple):
        tree = {**tree, "objective": {"metrics": list(tree["objective"])}}
    objective, evolution = tree.get("objective"), tree.get("evolution", {})
    if isinstance(objective, dict) and objective.get("metrics") is not None and isinstance(evolution, dict):
        tree = {**tree, "evolution": {"removal": REMOVAL_BY_RANK, **evolution}}
    return tree
