"""The section of the spec about rungs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from eatnas_db.domain.spec_section import SpecSection

if TYPE_CHECKING:
    from eatnas_db.domain.spec import SearchSpec


class FidelitySpec(SpecSection):
    """Rungs: short trainings after which only the best candidates continue."""

    rungs: tuple[int, ...] = Field(min_length=1, max_length=16, description="epochs after which a candidate may stop")
    keep: float = Field(0.25, gt=0, lt=1, description="largest share of the candidates at a rung that continue")
    schedule: Literal["whole", "rung"] = Field(
        "whole",
        description="whole: the learning rate's schedule spans all epochs, and a candidate that continues "
        "resumes its checkpoint; rung: the schedule ends at the next rung, and the candidate starts again from scratch",
    )

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(epochs < 1 for epochs in value) or list(value) != sorted(set(value)):
            raise ValueError("expected epochs in ascending order, at least 1 each, such as [3, 10]")
        return value

    def require_fitting(self, spec: SearchSpec) -> None:
        """Raise `ValueError` unless the rungs fit the rest of the spec."""
        whole = spec.training.epochs
        if self.rungs[-1] > whole or self.rungs[0] >= whole:
            raise ValueError(
                f"evolution.fidelity.rungs {list(self.rungs)}: the first rung must be less than training.epochs "
                f"({whole}), and no rung may exceed it; lower the rungs, or raise training.epochs"
            )
        if spec.training.program is not None:
            raise ValueError(
                "evolution.fidelity needs the built-in training, which can stop at a rung and resume; remove "
                "evolution.fidelity or training.program"
            )
        if spec.objective.metrics is not None:
            raise ValueError(
                "evolution.fidelity ranks candidates by one score and cannot be combined with objective.metrics; "
                "remove one of the two"
            )
        if "inherited" in (spec.inheritance.weights, spec.transfer.weights):
            raise ValueError(
                "evolution.fidelity cannot be combined with inherited weights: children would be compared after "
                "different numbers of epochs; remove evolution.fidelity or use `weights: fresh`"
            )
