"""Read a search inside a transaction that changes it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, select

from eatnas_db.queries.searches import SearchRecord, fetch_searches
from eatnas_db.schema.searches import search

_SELECT_FOR_UPDATE: Final = select(search).where(search.c.id == bindparam("search_id")).with_for_update(key_share=True)


def lock_search(connection: Connection, search_id: int) -> SearchRecord:
    """Read a search and lock its row: until the transaction ends, no other transaction changes it."""
    (record,) = fetch_searches(connection, _SELECT_FOR_UPDATE, search_id=search_id)
    return record
