"""Query the quality of a search's population, step by step."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sqlalchemy import Connection, select

from eatnas_db.queries.paging import EVERYTHING, Page, fetch_page
from eatnas_db.schema.searches import search, step


@dataclass(frozen=True, slots=True)
class PopulationStep:
    """Statistics of the fitness of the population after `number` settled births, at the Unix time `at`.

    `device_seconds` is the time that the devices spent on these births, including failed and repeated attempts.
    """

    number: int
    size: int
    mean: float | None
    spread: float | None
    best: float | None
    quality: float | None
    device_seconds: float
    at: float
    hypervolume: float | None = None
    """The hypervolume of several objectives; None until all initial births are settled, or with one objective."""


_COLUMNS = tuple(step.c[field.name] for field in fields(PopulationStep))


def list_steps(
    connection: Connection,
    search_id: int,
    after: int = 0,
    *,
    max_points: int | None = None,
    page: Page = EVERYTHING,
) -> tuple[PopulationStep, ...]:
    """Return the steps after number `after` in order, or a page of them.

    If a search has more than `max_points` steps, return about this many evenly spaced steps and the last step. Raises
    `ConflictError` for a page with an unknown column.
    """
    query = select(*_COLUMNS).where(step.c.search_id == search_id, step.c.number > after)
    if max_points is not None:
        last = connection.execute(select(search.c.settled).where(search.c.id == search_id)).scalar_one()
        interval = max(1, -(-last // max_points))
        if interval > 1:  # the index finds each of these steps; a condition on the remainder would read all steps
            query = query.where(step.c.number.in_([*range(interval, last, interval), last]))
    return tuple(fetch_page(connection, query, page, row_type=PopulationStep, order=("number",)))
