"""How a search's population went, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from eatnas_db.schema.searches import search, step


@dataclass(frozen=True, slots=True)
class PopulationStep:
    """The population after `number` settled births, in a few figures.

    `device_seconds`: what the devices had spent on these births, failed and repeated attempts included.
    """

    number: int
    size: int
    mean: float | None
    spread: float | None
    best: float | None
    quality: float | None
    device_seconds: float
    at: float


_COLUMNS = tuple(step.c[name] for name in PopulationStep.__dataclass_fields__)


def list_steps(
    connection: Connection,
    search_id: int,
    after: int = 0,
    *,
    most: int | None = None,
    offset: int = 0,
    limit: int | None = None,
) -> tuple[PopulationStep, ...]:
    """The steps after number `after`, in order, from `offset` on `limit`.

    `most`: of a longer search an even sample of about so many, and the last.
    """
    query = select(*_COLUMNS).where(step.c.search_id == search_id, step.c.number > after)
    if most is not None:
        last = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
        every = max(1, -(-last // most))
        query = query.where((step.c.number % every == 0) | (step.c.number == last))
    rows = connection.execute(query.order_by(step.c.number).limit(limit).offset(offset or None))
    return tuple(PopulationStep(*row) for row in rows)
