"""Record an event in the same transaction as the change that it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, insert

from eatnas_db.database.bulk_insert import insert_rows
from eatnas_db.schema.events import event
from eatnas_db.text_encoding import storable_json

_INSERT_EVENT: Final = insert(event)


def record_event(
    connection: Connection,
    now: float,
    kind: str,
    *,
    search_id: int | None = None,
    candidate_id: int | None = None,
    attempt: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Insert an event; `detail` is stored as JSON."""
    values = {
        "at": now,
        "kind": kind,
        "search_id": search_id,
        "candidate_id": candidate_id,
        "attempt": attempt,
        "detail": None if detail is None else storable_json(detail),
    }
    connection.execute(_INSERT_EVENT, values)


def record_events(
    connection: Connection,
    now: float,
    kind: str,
    *,
    search_id: int,
    candidate_ids: Sequence[int],
    details: Mapping[int, dict[str, Any]] | None = None,
) -> None:
    """Insert an event of one kind for each of these candidates; `details` maps candidate ids to details."""
    rows = [
        {
            "at": now,
            "kind": kind,
            "search_id": search_id,
            "candidate_id": candidate_id,
            "attempt": None,
            "detail": None if details is None else storable_json(details[candidate_id]),
        }
        for candidate_id in candidate_ids
    ]
    insert_rows(connection, event, rows)
