"""Columns that several answers show."""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_cli.printing import Format
from eatnas_db.queries.lineage import LineageEntry
from eatnas_db.queries.population import PopulationMember
from eatnas_db.queries.ranking import RankedCandidate


def inheritance_columns(
    rows: Sequence[RankedCandidate | PopulationMember | LineageEntry],
    format: Format,  # noqa: A002
) -> tuple[str, ...]:
    """Return the columns about inherited weights; for a table none if no candidate inherited any."""
    shown = format is not Format.TABLE or any(row.share_inherited is not None for row in rows)
    return ("share_inherited", "lineage_epochs") if shown else ()
