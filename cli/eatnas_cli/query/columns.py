"""Columns that several answers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eatnas_cli.printing import Format


class MayInherit(Protocol):
    """A row about a candidate, which may have inherited weights."""

    @property
    def share_inherited(self) -> float | None:
        """The share of the candidate's weights that was inherited."""


def inheritance_columns(rows: Sequence[MayInherit], format: Format) -> tuple[str, ...]:  # noqa: A002
    """Return the columns about inherited weights. Return no columns for a table in which no weights are inherited."""
    shown = format is not Format.TABLE or any(row.share_inherited is not None for row in rows)
    return ("share_inherited", "lineage_epochs") if shown else ()


class MayHaveRungs(Protocol):
    """A row about a candidate whose search may have rungs."""

    @property
    def rung(self) -> int:
        """The last rung of the candidate."""


def rung_column(rows: Sequence[MayHaveRungs]) -> tuple[str, ...]:
    """Return the column of the last rung, or no column if no candidate has reached a second rung."""
    return ("rung",) if any(row.rung for row in rows) else ()
