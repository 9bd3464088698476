"""The search space of a recorded search, and of a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.spaces import read_space

if TYPE_CHECKING:  # it loads pydantic
    from eatnas_db.domain.spec import SearchSpec


def space_of(search: SearchRecord) -> Space:
    """Return the space that a search samples from: its macro, its task and the limits of its objective."""
    objective = search.spec["objective"]
    limits = Limits(objective["max_params"], objective["max_mult_adds"])
    return Space(read_space(search.macro), Task(**search.task), limits)


def feasible_space(spec: SearchSpec, task: Task) -> Space:
    """Return the space of a spec on a task. Raises `SpaceExhaustedError` if no network is within its limits."""
    space = Space(spec.macro(), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    space.require_feasible()
    return space
