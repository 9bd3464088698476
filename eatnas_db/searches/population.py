"""Add candidates to a search's population and remove them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, update

from eatnas_db.schema.candidates import candidate

_JOIN: Final = update(candidate).where(candidate.c.id == bindparam("candidate_id")).values(joined=bindparam("step"))
_LEAVE: Final = update(candidate).where(candidate.c.id == bindparam("candidate_id")).values(left=bindparam("step"))


def join_population(connection: Connection, candidate_id: int, step: int) -> None:
    """Add a candidate to the population from `step` on."""
    connection.execute(_JOIN, {"candidate_id": candidate_id, "step": step})


def leave_population(connection: Connection, candidate_id: int, step: int) -> None:
    """Remove a candidate from the population from `step` on."""
    connection.execute(_LEAVE, {"candidate_id": candidate_id, "step": step})
