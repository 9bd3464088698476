"""The section `final` of a spec, parsed and validated with pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from eatnas_db.domain.final_weights import parse_source
from eatnas_db.domain.spec_errors import describe_errors
from eatnas_db.domain.spec_section import SpecSection
from eatnas_db.errors import InvalidSpecError


class FinalSpec(SpecSection):
    """The changes that `search final` makes to the recipe of the search.

    A key that is not set takes its value from the preset, or else from the search.

    A value that turns a method off also takes precedence over the preset.
    """

    preset: Literal["eatnas-paper", "strong"] | None = None
    epochs: int | None = Field(None, ge=1, le=100_000, description="default: 4 times `training.epochs`")
    batch_size: int | None = Field(None, ge=2, le=65_536)
    optimizer: Literal["sgd", "adamw"] | None = None
    learning_rate: float | None = Field(None, gt=0, le=100)
    warmup: float | None = Field(None, ge=0, lt=1)
    momentum: float | None = Field(None, ge=0, lt=1, description="with `optimizer: adamw`, the first beta")
    weight_decay: float | None = Field(None, ge=0, le=1)
    clip_norm: float | None = Field(None, ge=0, le=1e9, description="maximum norm of the gradient; 0: no limit")
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    ema_decay: float | None = Field(None, ge=0, lt=1, description="decay of the average of the weights; 0: no average")
    augment: Literal["none", "flip", "shift", "crop_flip"] | None = None
    auto_augment: Literal["none", "randaugment", "trivialaugment"] | None = None
    random_erasing: float | None = Field(None, ge=0, le=1, description="share of images with an erased rectangle")
    mixup: float | None = Field(None, ge=0, le=1000, description="alpha of mixup; 0: off")
    cutmix: float | None = Field(None, ge=0, le=1000, description="alpha of cutmix; 0: off")
    stochastic_depth: float | None = Field(
        None, ge=0, lt=1, description="share of images that skip the last residual layer"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="share of the classifier's inputs that are dropped")
    end_resolution: int | None = Field(
        None, ge=4, le=1024, description="side of the images in pixels in the final epochs"
    )
    end_epochs: int | None = Field(
        None, ge=0, le=100_000, description="number of final epochs that use `end_resolution`"
    )
    devices: int | None = Field(None, ge=1, le=64, description="number of processes that share each batch")
    from_: str | None = Field(
        None, alias="from", description="the final model whose weights the training starts from; `none`: random weights"
    )

    @field_validator("from_")
    @classmethod
    def _names_a_final_model(cls, value: str | None) -> str | None:
        if value is not None:
            parse_source(value)
        return value

    def to_keys(self) -> dict[str, Any]:
        """Return the keys that are set."""
        return self.model_dump(mode="json", exclude_none=True)


FinalSpec.stored_if_set = frozenset(FinalSpec.model_fields)


class _Final(BaseModel):
    final: FinalSpec


def parse_final(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the valid keys of a section `final`. Raises `InvalidSpecError` with one line per error."""
    try:
        return _Final(final=dict(keys)).final.to_keys()
    except ValidationError as error:
        raise InvalidSpecError("\n".join(describe_errors(error, _Final))) from None
