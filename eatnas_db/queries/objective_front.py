"""Query the Pareto front of a search with several objectives: the candidates that no other candidate dominates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from eatnas_db.database.batches import split_in_batches
from eatnas_db.domain.dominance import Values, crowding_distances, rank_and_crowding
from eatnas_db.domain.objective import MULT_ADDS, PARAMS
from eatnas_db.domain.objectives import OptimizedMetric, list_objectives, orient_values
from eatnas_db.queries.large_fronts import find_front_of_many
from eatnas_db.queries.paging import EVERYTHING, Page, select_page
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class ObjectiveValues:
    """A scored candidate, with the values of the objectives in the order of the spec."""

    id: int
    birth: int
    fitness: float
    params: int
    mult_adds: int
    origin: str
    code: str
    values: tuple[float, ...]

    def by_metric(self, objectives: Sequence[OptimizedMetric]) -> dict[str, float]:
        """Return the values by the names of their metrics. Parameters and mult-adds are integers."""
        counts = {PARAMS: self.params, MULT_ADDS: self.mult_adds}
        return {
            objective.metric: counts.get(objective.metric, value)
            for objective, value in zip(objectives, self.values, strict=True)
        }


_COLUMNS = (
    candidate.c.id,
    candidate.c.birth,
    candidate.c.fitness,
    candidate.c.params,
    candidate.c.mult_adds,
    candidate.c.origin,
    candidate.c.code,
    candidate.c.objectives,
)


def get_objectives(connection: Connection, search_id: int) -> tuple[OptimizedMetric, ...]:
    """Return the objectives of a search with several objectives, or an empty tuple for a search with one objective."""
    return list_objectives(connection.execute(select(search.c.spec).where(search.c.id == search_id)).scalar_one())


def list_objective_front(
    connection: Connection, search_id: int, page: Page = EVERYTHING
) -> tuple[ObjectiveValues, ...]:
    """Return a page of the Pareto front of a search with several objectives, the fittest first.

    Of candidates with equal values, only the oldest belongs to the front. The front is empty in a search with one
    objective. The conditions and the order of the page may name the objectives. Raises `ConflictError` for a column or
    value that does not exist.
    """
    front = _find_front(connection, search_id)
    rows = sorted(list_objective_values(connection, list(front)), key=lambda row: (-row.fitness, row.birth))
    numbers = objective_numbers(get_objectives(connection, search_id))
    return tuple(select_page(rows, page, row_type=ObjectiveValues, numbers=numbers))


def objective_numbers(objectives: Sequence[OptimizedMetric]) -> dict[str, Callable[[ObjectiveValues], float]]:
    """Return a function for each objective, which returns the value of a candidate."""

    def value_of(metric: str) -> Callable[[ObjectiveValues], float]:
        return lambda row: row.by_metric(objectives)[metric]

    return {objective.metric: value_of(objective.metric) for objective in objectives}


def list_front_ids(connection: Connection, search_id: int) -> list[int] | None:
    """Return the ids of the Pareto front, the least crowded candidates first; None in a search with one objective.

    Ties go to the older candidate.
    """
    if not get_objectives(connection, search_id):
        return None
    front = _find_front(connection, search_id)
    distances = dict(zip(front, crowding_distances(list(front.values())), strict=True))
    return sorted(front, key=lambda candidate_id: -distances[candidate_id])


def order_by_preference(connection: Connection, search_id: int, candidate_ids: Sequence[int]) -> list[int]:
    """Return the ids of scored candidates in the order of rank and crowding; with one objective, in the given order."""
    objectives = get_objectives(connection, search_id)
    if not objectives:
        return list(candidate_ids)
    rows = sorted(list_objective_values(connection, candidate_ids), key=lambda row: row.birth)
    keys = rank_and_crowding([orient_values(objectives, row.values) for row in rows])
    return [rows[place].id for place in sorted(range(len(rows)), key=keys.__getitem__)]


def list_objective_values(connection: Connection, candidate_ids: Sequence[int]) -> list[ObjectiveValues]:
    """Return the values of these candidates, whose searches must have several objectives."""
    query = select(*_COLUMNS).where(candidate.c.objectives.is_not(None))
    return [
        _read(row)
        for batch in split_in_batches(candidate_ids)
        for row in connection.execute(query.where(candidate.c.id.in_(batch)))
    ]


def sample_objective_values(connection: Connection, search_id: int, max_points: int) -> tuple[ObjectiveValues, ...]:
    """Return the scored candidates of a search, or of an evenly spaced sample of at most `max_points` births."""
    born = connection.execute(
        select(func.count()).select_from(candidate).where(candidate.c.search_id == search_id)
    ).scalar_one()
    interval = max(1, -(-born // max_points))
    query = select(*_COLUMNS).where(
        candidate.c.search_id == search_id,
        candidate.c.objectives.is_not(None),
        candidate.c.birth % interval == 0,
    )
    return tuple(_read(row) for row in connection.execute(query.order_by(candidate.c.birth)))


def _read(row: Any) -> ObjectiveValues:
    return ObjectiveValues(
        id=row.id,
        birth=row.birth,
        fitness=row.fitness,
        params=row.params,
        mult_adds=row.mult_adds,
        origin=row.origin,
        code=row.code,
        values=tuple(row.objectives),
    )


def _find_front(connection: Connection, search_id: int) -> dict[int, Values]:
    """Return the values of the front by id, in order of birth."""
    objectives = get_objectives(connection, search_id)
    query = (
        select(candidate.c.id, candidate.c.objectives)
        .where(candidate.c.search_id == search_id, candidate.c.objectives.is_not(None))
        .order_by(candidate.c.birth)
    )
    rows = connection.execute(query).all() if objectives else []
    vectors = [orient_values(objectives, row.objectives) for row in rows]
    return {rows[place].id: vectors[place] for place in find_front_of_many(vectors)}
