"""The user's own training function that a spec names, as the record stores it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from eatnas_db.domain.objective import COST_METRICS, LATENCY, MULT_ADDS, PARAMS, require_metric_name
from eatnas_db.domain.plain_scalars import plain_values
from eatnas_db.domain.spec_objective import MetricSpec
from eatnas_db.domain.spec_patterns import PROGRAM_PATTERN
from eatnas_db.domain.spec_section import SpecSection

MAX_DEPTH: Final = 20


def require_plain_options(value: Any, path: str = "", depth: int = 0) -> Any:
    """Return a value that JSON can hold exactly. Raises `ValueError` for any other value."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path or 'the value'} is {value}, which is not finite; use a finite number")
    if depth > MAX_DEPTH:
        raise ValueError("the options are nested too deeply; use fewer levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not a string; quote it")
            require_plain_options(inner, f"{path}.{key}".removeprefix("."), depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            require_plain_options(inner, f"{path}[{number}]", depth + 1)
    elif not isinstance(value, str | int | float | bool | None):
        raise ValueError(
            f"{path or 'the value'} is of type {type(value).__name__}; use numbers, strings, lists or mappings"
        )
    return value


ProgramOptions = Annotated[dict[str, Any], BeforeValidator(lambda value: require_plain_options(plain_values(value)))]


class ProgramSpec(SpecSection):
    """A function of an installed package, written as `module:name`.

    When a search is created, the version of the package and the digest of its source are added to the stored spec. A
    spec that already contains them is accepted only if exactly this source is installed.
    """

    reference: str = Field(pattern=PROGRAM_PATTERN)
    version: str | None = None
    source_digest: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _from_reference(cls, value: Any) -> Any:
        return {"reference": value} if isinstance(value, str) else value

    @model_serializer(mode="plain")
    def _to_json(self) -> dict[str, str] | str:
        if self.version is None or self.source_digest is None:
            return self.reference
        return {"reference": self.reference, "version": self.version, "source_digest": self.source_digest}


def known_to_program(metrics: Sequence[MetricSpec]) -> list[str]:
    """Return the metrics that a search with a program may optimize: the metrics of the program, and the costs of
    networks.
    """
    return [*(entry.metric for entry in metrics if entry.metric != LATENCY), PARAMS, MULT_ADDS]


def require_metric_names(metric: str, metrics: Sequence[MetricSpec] | None) -> None:
    """Raise `ValueError` unless a program may report the metrics that the search optimizes."""
    paths = {"objective.metric": metric} if metrics is None else {}
    for number, entry in enumerate(metrics or ()):
        if entry.metric not in COST_METRICS:
            paths[f"objective.metrics[{number}].metric"] = entry.metric
    for path, name in paths.items():
        try:
            require_metric_name(name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def first_score(metrics: Sequence[MetricSpec]) -> MetricSpec | None:
    """Return the first of several objectives that is not a cost; this objective decides fitness."""
    return next((entry for entry in metrics if entry.metric not in COST_METRICS), None)
