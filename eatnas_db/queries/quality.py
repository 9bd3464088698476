"""How a search's population went, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from eatnas_db.queries.paging import EVERYTHING, Page, fetch_page
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
    max_points: int | None = None,
    page: Page = EVERYTHING,
) -> tuple[PopulationStep, ...]:
    """Return the steps after number `after` in order, or a page of them.

    With `max_points`, a longer search yields about that many evenly spaced steps and its last one. Raises
    `ConflictError` for a page with an unknown column.
    """
    query = select(*_COLUMNS).where(step.c.search_id == search_id, step.c.number > after)
    if max_points is not None:
        last = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
        every = max(1, -(-last // max_points))
        query = query.where((step.c.number % every == 0) | (step.c.number == last))
    return tuple(fetch_page(connection, query, page, row_type=PopulationStep, order=("number",)))
