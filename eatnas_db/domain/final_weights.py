"""The weights that final models start from, as `final.from` names them and as a recipe stores them.

This module imports only the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eatnas_db.domain.states import Origin

FROM: Final = "from"
"""The key that names the weights in the section `final` and in the recipe."""
RANDOM: Final = "none"
"""The value of `final.from` for random initial weights."""
_SOURCE: Final = re.compile(r"([^/\s]+)(?:/([1-9][0-9]{0,17}))?")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """The weights of a trained final model: its search, its candidate, and the SHA-256 of its last checkpoint."""

    search: str
    candidate: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Return the source as plain JSON values, as a recipe stores it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.search}/{self.candidate}"


def parse_source(text: str) -> tuple[str, int | None] | None:
    """Return the search and the candidate that a value of `final.from` names, or None for random weights. Raises
    `ValueError`.
    """
    if text == RANDOM:
        return None
    match = _SOURCE.fullmatch(text)
    if match is None:
        raise ValueError("expected none, SEARCH, or SEARCH/CANDIDATE with the id of the candidate")
    return match[1], None if match[2] is None else int(match[2])


def source_of(training: Mapping[str, Any], code: str) -> WeightSource | None:
    """Return the weights that a final model of this architecture starts from; `training` is this section of the
    search's spec.
    """
    source = (training.get(FROM) or {}).get(code)
    return None if source is None else WeightSource(**source)


def describe_source(spec: Mapping[str, Any], origin: str, code: str) -> str | None:
    """Return the source of a final model's weights as SEARCH/CANDIDATE, or None for random weights.

    `spec` is the stored spec of the final model's search.
    """
    if origin != Origin.FINAL or not isinstance(spec, dict):  # a manual change damaged the spec
        return None
    source = source_of(spec["training"], code)
    return None if source is None else str(source)


def own_training(training: Mapping[str, Any], code: str) -> dict[str, Any]:
    """Return the section `training` for one architecture, without the weight sources of other architectures."""
    source = source_of(training, code)
    return dict(training) if source is None else {**training, FROM: source.to_json()}


def list_weight_sources(training: Mapping[str, Any]) -> list[WeightSource]:
    """Return the weights that the final models of a search start from."""
    return [WeightSource(**source) for source in (training.get(FROM) or {}).values()]
