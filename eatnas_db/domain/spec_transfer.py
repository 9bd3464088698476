"""The section of the spec about transfer."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.integers import MAX_BIGINT
from eatnas_db.domain.spec_section import SpecSection
from eatnas_db.errors import InvalidArchitectureError

MAX_SOURCES: Final = 8
"""The maximum number of searches whose models one search may use. Each model adds to the time of a birth."""


class TransferSpec(SpecSection):
    """How the initial population derives from other searches or from the user's architecture."""

    basic: str | None = Field(
        None,
        description="basic architecture, in readable notation, that `search create` starts from instead of a source "
        "search",
    )
    start: Literal["perturbations", "survivors", "model"] = Field(
        "perturbations",
        description="perturbations: variants of the basic architecture; survivors: the source's last population, "
        "unchanged; model: the best few candidates of the sources, and a model of their scores that guides the later "
        "births",
    )
    sources: tuple[str, ...] = Field(
        (),
        max_length=MAX_SOURCES - 1,
        description="names of further finished searches whose scores the model uses; only with `start: model`",
    )
    blocks: int = Field(3, ge=1, le=32, description="the largest number of blocks that a perturbation changes")
    primitives: tuple[Literal["op", "kernel", "skip", "depth", "width"], ...] = Field(
        ("op", "kernel", "skip", "depth", "width"), min_length=1
    )
    stretch_to: int | None = Field(
        None,
        ge=1,
        le=MAX_BIGINT,
        description="mult-adds to which the basic architecture is stretched; default: it stays unchanged",
    )
    stretch: tuple[Literal["depth", "width"], ...] = Field(("depth", "width"), min_length=1)
    weights: Literal["fresh", "inherited"] = "fresh"

    stored_if_set = frozenset({"sources"})

    @field_validator("sources")
    @classmethod
    def _name_sources_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := next((name for name in value if value.count(name) > 1), None):
            raise ValueError(f"{repeated!r} is named twice; name each source once")
        return value

    @field_validator("basic")
    @classmethod
    def _parse_basic(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and (info.context is None or info.context["codes_of_eat_nas"]):
            try:
                Architecture.parse(value)
            except InvalidArchitectureError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _weights_have_a_source(self) -> TransferSpec:
        if self.basic is not None and self.weights != "fresh":
            raise ValueError(
                "weights cannot be inherited from transfer.basic, which has no weights; use `weights: fresh`"
            )
        return self

    @model_validator(mode="after")
    def _survivors_stay_unchanged(self) -> TransferSpec:
        if self.start != "perturbations" and self.basic is not None:
            raise ValueError(f"`start: {self.start}` needs a source search and cannot be combined with `basic`")
        if self.start != "perturbations" and self.stretch_to is not None:
            raise ValueError(
                f"`start: {self.start}` keeps architectures unchanged and cannot be combined with `stretch_to`"
            )
        return self

    @model_validator(mode="after")
    def _sources_belong_to_a_model(self) -> TransferSpec:
        if self.sources and self.start != "model":
            raise ValueError("`sources` needs `start: model`; set `start: model`, or remove `sources`")
        return self
