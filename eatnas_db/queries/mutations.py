"""What changed at a candidate's birth, in words."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Select, select

from eatnas_db.domain.space import Change
from eatnas_db.schema import mutation

_BOOLEANS: Final[dict[str, bool]] = {"True": True, "False": False}


def list_changes(connection: Connection, of: Select[Any]) -> dict[int, tuple[str, ...]]:
    """The changes of every candidate whose id the query `of` selects, such as `block 5 kernel 3 → 7`."""
    query = (
        select(mutation).where(mutation.c.candidate_id.in_(of)).order_by(mutation.c.candidate_id, mutation.c.ordinal)
    )
    changes: dict[int, tuple[str, ...]] = {}
    for row in connection.execute(query):
        before, after = (_BOOLEANS.get(value, value) for value in (row.before, row.after))
        words = str(Change(row.block, row.primitive, before, after))
        changes[row.candidate_id] = (*changes.get(row.candidate_id, ()), words)
    return changes
