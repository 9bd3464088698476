"""Which recipe a candidate is trained by, and whether it inherits: from a stored spec, without pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eatnas_db.domain.states import RETRAINED

INHERITED: Final = "inherited"
CHILD_RATE_SHARE: Final = 1 / 3
LONGER: Final = 4
"""A final model is trained for so many times the epochs of its search, unless it is told how many."""


def inherits(spec: Mapping[str, Any], *, origin: str, same_search: bool) -> bool:
    """Whether a candidate with a parent starts from the parent's weights; `spec` is its own search's."""
    if origin in RETRAINED:
        return False
    section = "inheritance" if same_search else "transfer"
    return bool(spec[section]["weights"] == INHERITED)


def without_timing(training: Mapping[str, Any]) -> dict[str, Any]:
    """What of a stored training section decides bits: all but the checkpoints' interval."""
    return {key: value for key, value in training.items() if key != "checkpoint_seconds"}


def recipe_of(spec: Mapping[str, Any], *, inheriting: bool) -> dict[str, Any]:
    """The training section that holds for a candidate: a child that inherits has its own epochs and rate."""
    recipe = dict(spec["training"])
    if inheriting:
        child = spec["inheritance"]
        recipe["epochs"] = child["epochs"] or recipe["epochs"]
        recipe["learning_rate"] = child["learning_rate"] or recipe["learning_rate"] * CHILD_RATE_SHARE
    return recipe
