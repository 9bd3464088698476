"""A search's row: locked for this transaction, and the space that it describes."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.schema.searches import search


def space_of(row: Any) -> Space:
    """The space that a search's row describes."""
    objective = row.spec["objective"]
    limits = Limits(objective["max_params"], objective["max_mult_adds"])
    return Space(Macro.from_json(row.macro), Task(**row.task), limits)


_ROW: Final = select(search).where(search.c.id == bindparam("of")).with_for_update(key_share=True)


def lock_search_row(connection: Connection, search_id: int) -> Any:
    """A search's row as it is inside this transaction, and stays but for what this transaction does."""
    return connection.execute(_ROW, {"of": search_id}).one()
