"""Derive a candidate's recipe from a stored spec, and decide whether the candidate inherits weights.

This module does not import pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eatnas_db.domain.arithmetic import NATIVE
from eatnas_db.domain.states import RETRAINED, Origin

INHERITED: Final = "inherited"
BALANCED: Final = "balanced"
"""The value of `data.class_weights` that becomes part of a recipe."""
CHILD_LEARNING_RATE_FACTOR: Final = 1 / 3
FINAL_EPOCHS_FACTOR: Final = 4
"""The epochs of a final model as a multiple of the epochs of its search, unless the user sets the epochs."""


def inherits_weights(spec: Mapping[str, Any], *, origin: str, parent_id: int | None) -> bool:
    """Return whether a candidate starts from its parent's weights; `spec` is the stored spec of its own search.

    Only a mutation has a parent in its own search. Any other parent is a candidate of the source search or an imported
    architecture. An imported architecture has no weights and cannot be combined with `transfer.weights: inherited`.
    """
    if parent_id is None or origin in RETRAINED:
        return False
    section = "inheritance" if origin == Origin.MUTATION else "transfer"
    return bool(spec[section]["weights"] == INHERITED)


def without_timing(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a section `training` that affect results: all except the interval of checkpoints.

    The field `arithmetic` is left out if its value is `native`, so that the result equals that of an older spec without
    the field.
    """
    fields = {key: value for key, value in training.items() if key != "checkpoint_seconds"}
    if fields.get("arithmetic") == NATIVE:
        del fields["arithmetic"]
    return fields


def class_weights_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys that a `data` section adds to the recipe: the class weights, if the section asks for them."""
    weights = data.get("class_weights")
    return {"class_weights": BALANCED} if weights == BALANCED else {}


def recipe_of(spec: Mapping[str, Any], *, inheriting: bool) -> dict[str, Any]:
    """Return a candidate's recipe. If the candidate inherits weights, the recipe has the epochs and the learning rate
    of `inheritance`.
    """
    recipe = dict(spec["training"])
    if inheriting:
        child = spec["inheritance"]
        recipe["epochs"] = child["epochs"] or recipe["epochs"]
        recipe["learning_rate"] = child["learning_rate"] or recipe["learning_rate"] * CHILD_LEARNING_RATE_FACTOR
    return recipe
