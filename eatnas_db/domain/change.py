"""A difference between two architectures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # queries describe changes without loading the spaces
    from eatnas_db.domain.architecture import PrimitiveValue


@dataclass(frozen=True, slots=True)
class Change:
    """The values of one primitive before and after a mutation; `block` counts from 1."""

    block: int
    primitive: str
    before: PrimitiveValue
    after: PrimitiveValue

    def __str__(self) -> str:
        return f"block {self.block} {self.primitive} {_format(self.before)} → {_format(self.after)}"


def _format(value: PrimitiveValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
