"""How a search's population went, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from eatnas_db.schema import step


@dataclass(frozen=True, slots=True)
class Step:
    """The population after `number` settled births, in a few figures."""

    number: int
    size: int
    mean: float | None
    spread: float | None
    best: float | None
    quality: float | None
    at: float


def list_steps(connection: Connection, search_id: int, after: int = 0) -> tuple[Step, ...]:
    """The steps after number `after`, in order."""
    query = (
        select(*(step.c[name] for name in Step.__dataclass_fields__))
        .where(step.c.search_id == search_id, step.c.number > after)
        .order_by(step.c.number)
    )
    return tuple(Step(*row) for row in connection.execute(query))
