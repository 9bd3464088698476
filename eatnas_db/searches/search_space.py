"""The search space of a recorded search."""

from __future__ import annotations

from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.queries.searches import SearchRecord


def space_of(search: SearchRecord) -> Space:
    """Return the space that a search samples from: its macro, its task and the limits of its objective."""
    objective = search.spec["objective"]
    limits = Limits(objective["max_params"], objective["max_mult_adds"])
    return Space(Macro.from_json(search.macro), Task(**search.task), limits)
