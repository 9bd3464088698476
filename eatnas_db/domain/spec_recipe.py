"""The recipe of one training, as a worker reads it: the recipe of a search, and the methods of final models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from eatnas_db.domain.final_recipe import METHODS_OFF
from eatnas_db.domain.spec import TrainingSpec


class TrainingRecipe(TrainingSpec):
    """A recipe with the methods of final models, all off by default.

    A stored recipe contains only the methods that are on.

    `docs/final-models.md` describes each method.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    clip_norm: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none"
    random_erasing: float = Field(0.0, ge=0, le=1)
    stochastic_depth: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    end_resolution: int | None = Field(None, ge=4, le=1024)
    end_epochs: int = Field(0, ge=0)
    devices: int = Field(1, ge=1)
    from_: dict[str, Any] | None = Field(None, alias="from")

    stored_if_set = TrainingSpec.stored_if_set | {*METHODS_OFF, "from_"} - {"from"}
