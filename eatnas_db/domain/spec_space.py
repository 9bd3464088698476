"""The space of a spec: a macro that the user defines."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from eatnas_db.domain.cell_space import CELL_PRESETS
from eatnas_db.domain.macro import PRESETS, Macro
from eatnas_db.domain.operators import BUILT_IN_OPERATORS, Operator
from eatnas_db.domain.spec_patterns import NAME_PATTERN
from eatnas_db.domain.spec_section import SpecSection


class MacroSpec(SpecSection):
    """A macro that the user defines: `strides` and `base` have one entry per block."""

    name: str = Field(pattern=NAME_PATTERN)
    stem_channels: int = Field(ge=1, le=4096)
    stem_stride: int = Field(1, ge=1, le=4)
    strides: tuple[int, ...] = Field(min_length=1, max_length=32)
    base: tuple[int, ...] = Field(min_length=1, max_length=32)
    head_channels: int = Field(ge=1, le=16384)
    multiplier: float = Field(1.0, gt=0, le=16)
    ops: tuple[str, ...] | None = Field(
        None, min_length=1, description="operators, cheapest first; default: sep, mb3, mb6"
    )

    stored_if_set: ClassVar[frozenset[str]] = frozenset({"ops"})

    @field_validator("name")
    @classmethod
    def _not_a_preset(cls, value: str) -> str:
        if value in PRESETS or value in CELL_PRESETS:
            raise ValueError(f"{value} is the name of a built-in space; choose another name")
        return value

    @model_validator(mode="after")
    def _check_blocks(self) -> MacroSpec:
        if len(self.strides) != len(self.base):
            raise ValueError(
                f"both strides and base need one entry per block, but strides has {len(self.strides)} and base has "
                f"{len(self.base)}"
            )
        if not all(1 <= stride <= 4 for stride in self.strides):
            raise ValueError("every number in strides must be from 1 to 4")
        if not all(1 <= channels <= 16384 for channels in self.base):
            raise ValueError("every number of channels in base must be from 1 to 16384")
        return self

    def to_macro(self, operators: tuple[Operator, ...] = BUILT_IN_OPERATORS) -> Macro:
        """Return the macro with `operators`, the operators that `ops` names."""
        return Macro(**self.model_dump(exclude={"ops"}), operators=operators)
