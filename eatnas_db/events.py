"""Events: what happened, written in the transaction that made it happen."""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy import Connection, insert

from eatnas_db.schema.events import event

_NEW_EVENT: Final = insert(event)


def record_event(
    connection: Connection,
    now: float,
    kind: str,
    search_id: int | None = None,
    candidate_id: int | None = None,
    attempt_number: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Write down what happened."""
    values = {
        "at": now,
        "kind": kind,
        "search_id": search_id,
        "candidate_id": candidate_id,
        "attempt": attempt_number,
        "detail": None if detail is None else json.dumps(detail),
    }
    connection.execute(_NEW_EVENT, values)
