"""The searches that a supervisor works on: those that are not finished, and those that it still trains for."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, select

from eatnas_db.database.locks import lock_searches
from eatnas_db.queries.searches import RUN_WITH_SOURCE, SearchRecord, fetch_searches
from eatnas_db.schema.searches import search


def lock_open_searches(connection: Connection, only: str | None, in_training: Collection[int]) -> None:
    """Lock the open searches until the transaction ends, so that no other host advances them meanwhile."""
    lock_searches(connection, select(search.c.id).where(*_is_open(only, in_training)))


def list_open_searches(
    connection: Connection, only: str | None, in_training: Collection[int]
) -> tuple[SearchRecord, ...]:
    """Return the open searches by priority.

    `only`: the name of a search; its re-evaluations and retries are included. `in_training`: ids of searches whose
    candidates this supervisor trains; a cancelled search counts as finished, but its workers have yet to be stopped.
    """
    query = select(search).where(*_is_open(only, in_training)).order_by(search.c.priority.desc(), search.c.id)
    return fetch_searches(connection, query)


def _is_open(only: str | None, in_training: Collection[int]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [search.c.finished_at.is_(None) | search.c.id.in_(in_training)]
    if only is not None:
        named = select(search.c.id).where(search.c.name == only).scalar_subquery()
        serves_it = search.c.kind.in_(RUN_WITH_SOURCE) & (search.c.source_id == named)
        conditions.append((search.c.id == named) | serves_it)
    return conditions
