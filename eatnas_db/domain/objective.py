"""Fitness: one number from an accuracy and a cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eatnas_db.domain.cost import Cost

VALIDATION_ACCURACY: Final = "val_accuracy"
"""The metric that a search optimizes."""
TEST_ACCURACY: Final = "test_accuracy"
"""The metric of final models; a search never sees it."""


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


def fitness(accuracy: float, mult_adds: int, target: int | None = None, exponent: float = 0.0) -> float:
    """Return `accuracy * (mult_adds / target) ** exponent`, as in MnasNet (arXiv 1807.11626)."""
    if target is None:
        return accuracy
    return accuracy * float((mult_adds / target) ** exponent)
