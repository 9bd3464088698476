"""Make the search space of a recorded search or of a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.recipe import INHERITED
from eatnas_db.domain.space import Space
from eatnas_db.errors import ConflictError
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.spaces import read_space, space_of_spec

if TYPE_CHECKING:  # this import loads pydantic
    from eatnas_db.domain.spec import SearchSpec


def space_of(search: SearchRecord) -> Space:
    """Return the space of a search, with its macro, its task and the limits of its objective."""
    objective = search.spec["objective"]
    limits = Limits(objective["max_params"], objective["max_mult_adds"])
    return Space(read_space(search.macro), Task(**search.task), limits)


def feasible_space(spec: SearchSpec, task: Task) -> Space:
    """Return the space of a spec on a task. Raises `SpaceExhaustedError` if no network is within the limits of the
    spec.

    Raises `PluginError` if a package of the space cannot be used.
    """
    space = Space(space_of_spec(spec), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    inherits = INHERITED in (spec.inheritance.weights, spec.transfer.weights)
    if inherits and space.macro.inheritance is None:
        raise ConflictError(
            f"space {space.macro.name} has no way to inherit weights; use fresh for inheritance.weights and "
            "transfer.weights"
        )
    space.require_feasible()
    return space
