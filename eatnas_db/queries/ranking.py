"""Rank the candidates of a search. Only this module defines "best".

Re-evaluated candidates come first, by the mean of their re-evaluations. The others follow by their last rung, if the
search has rungs, and by fitness. Ties go to the older candidate. The accuracy on the test part is shown, but does not
affect the ranking. With several objectives, the ranking contains only the Pareto front.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Float,
    Integer,
    Select,
    String,
    case,
    cast,
    literal,
    null,
    select,
)

from eatnas_db.database.dialects import null_unless_json, select_ids
from eatnas_db.domain.final_weights import FROM, WeightSource
from eatnas_db.domain.objective import Objective
from eatnas_db.domain.objectives import OptimizedMetric, list_objectives
from eatnas_db.domain.states import MemoryFallback, Origin, SearchKind
from eatnas_db.queries.final_models import FinalModel, group_tested_models
from eatnas_db.queries.metric_values import list_metric_values
from eatnas_db.queries.objective_front import (
    ObjectiveValues,
    list_front_ids,
    list_objective_values,
    objective_numbers,
    order_by_preference,
)
from eatnas_db.queries.paging import Page, fetch_page, select_page
from eatnas_db.schema.candidates import FITTEST_FIRST, LIVING, candidate
from eatnas_db.schema.searches import search

HALVED_BATCH: Final = "half micro-batch"


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A scored candidate in the ranking.

    `reevaluation` is the mean fitness of its re-evaluations, `reevaluation_spread` their standard deviation (None with
    fewer than two), and `reevaluation_seeds` their number. Only re-evaluations with the most epochs
    (`reevaluation_epochs`) count. `test`, `test_spread` and `test_seeds` are the mean, the standard deviation and the
    number of test accuracies of its final models; only models with the recipe of the newest model count.
    `test_weights_from` is the final model, as SEARCH/CANDIDATE, whose weights these models start from. `deviation`
    describes how the training of the candidate differed from the recipe after an attempt ran out of memory. `rung` is
    its last rung; 0 in a search without rungs.
    """

    id: int
    birth: int
    fitness: float
    params: int
    mult_adds: int
    origin: str
    parent_birth: int | None
    code: str
    share_inherited: float | None = None
    lineage_epochs: int | None = None
    deviation: str | None = None
    rung: int = 0
    reevaluation: float | None = None
    reevaluation_spread: float | None = None
    reevaluation_seeds: int = 0
    reevaluation_epochs: int | None = None
    test: float | None = None
    test_spread: float | None = None
    test_seeds: int = 0
    test_weights_from: str | None = None


def list_best(connection: Connection, search_id: int, top: int = 10) -> tuple[RankedCandidate, ...]:
    """Return the `top` best candidates of a search."""
    return rank_candidates(connection, search_id, Page(limit=top))


def get_best(connection: Connection, search_id: int) -> RankedCandidate | None:
    """Return the best candidate of a search, or None if no candidate is scored."""
    return next(iter(list_best(connection, search_id, top=1)), None)


def rank_candidates(connection: Connection, search_id: int, page: Page) -> tuple[RankedCandidate, ...]:
    """Return a page of the ranking. Its conditions and its order may name the metrics that the search optimizes.

    Raises `ConflictError` for an unknown column or value.
    """
    spec = connection.execute(select(search.c.spec).where(search.c.id == search_id)).scalar_one()
    if objectives := list_objectives(spec):
        return _select_from_front(connection, search_id, objectives, page)
    metric = Objective.from_spec(spec).column
    scored = _candidates().where(candidate.c.fitness.is_not(None))
    retrained = _select_retrained(search_id)
    # Select by id alone: these candidates already belong to the search, and with a condition on the search, SQLite
    # would read all candidates of the search.
    few = _add_measures(connection, scored.where(candidate.c.id.in_(retrained)))
    # The other candidates have neither re-evaluations nor tests. There may be a million of them, so the database sorts
    # them and returns only one page.
    others = scored.add_columns(*_NO_MEASURES, candidate.c.accuracy.label(metric)).where(
        candidate.c.search_id == search_id, candidate.c.id.not_in(retrained)
    )
    until_end = replace(page, limit=page.end, offset=0)
    order = ("-rung", "-fitness", "birth")
    many = fetch_page(connection, others, until_end, row_type=lambda *row: RankedCandidate(*row[:-1]), order=order)
    values = list_metric_values(connection, [row.id for row in (*few, *many)]) if page.selects else {}
    numbers = {metric: lambda row: values.get(row.id)}
    return tuple(select_page(_sort_by_rank([*few, *many]), page, row_type=RankedCandidate, numbers=numbers))


def _select_from_front(
    connection: Connection, search_id: int, objectives: Sequence[OptimizedMetric], page: Page
) -> tuple[RankedCandidate, ...]:
    front = list_front_ids(connection, search_id) or []
    values = {row.id: row for row in list_objective_values(connection, front)}

    def value_of(number: Callable[[ObjectiveValues], float]) -> Callable[[RankedCandidate], float]:
        return lambda row: number(values[row.id])

    numbers = {metric: value_of(number) for metric, number in objective_numbers(objectives).items()}
    rows = rank_among(connection, select_ids(connection, front))
    return tuple(select_page(rows, page, row_type=RankedCandidate, numbers=numbers))


def list_to_reevaluate(connection: Connection, search_id: int, top: int) -> tuple[RankedCandidate, ...]:
    """Return the `top` candidates to re-evaluate, in the order of the ranking without re-evaluations.

    Earlier re-evaluations do not count, so that candidates that were born later have the same chance. With several
    objectives, return the least crowded candidates of the Pareto front, which cover the front best.
    """
    front = list_front_ids(connection, search_id)
    if front is None:
        return list_fittest(connection, search_id, top)
    return rank_among(connection, select_ids(connection, front[:top]))


def list_fittest(connection: Connection, search_id: int, top: int) -> tuple[RankedCandidate, ...]:
    """Return the `top` candidates of a search with the highest fitness, in the order of the ranking."""
    scored = _candidates().where(candidate.c.search_id == search_id, candidate.c.fitness.is_not(None))
    fittest = scored.order_by(*FITTEST_FIRST).limit(top)
    return tuple(_sort_by_rank(_add_measures(connection, fittest)))


def rank_among(connection: Connection, candidate_ids: Select[tuple[int]]) -> tuple[RankedCandidate, ...]:
    """Return the scored candidates among those that a subquery selects, in the order of the ranking."""
    chosen = _candidates().where(candidate.c.id.in_(candidate_ids), candidate.c.fitness.is_not(None))
    return tuple(_sort_by_rank(_add_measures(connection, chosen)))


def list_living(connection: Connection, search_id: int) -> tuple[RankedCandidate, ...]:
    """Return the current population in the order of the ranking; with several objectives, by rank and crowding."""
    living = _candidates().where(candidate.c.search_id == search_id, LIVING)
    rows = {row.id: row for row in _sort_by_rank(_add_measures(connection, living))}
    return tuple(rows[candidate_id] for candidate_id in order_by_preference(connection, search_id, list(rows)))


def _sort_by_rank(candidates: Iterable[RankedCandidate]) -> list[RankedCandidate]:
    return sorted(candidates, key=_rank)


def _rank(row: RankedCandidate) -> tuple[bool, int, float, int]:
    if row.reevaluation is not None:  # Ignore the rung, because every re-evaluation is a whole training.
        return False, 0, -row.reevaluation, row.birth
    return True, -row.rung, -row.fitness, row.birth


def _candidates() -> Select[Any]:
    """Select the columns of `RankedCandidate` up to `rung`."""
    parent = candidate.alias("parent")
    return select(
        candidate.c.id,
        candidate.c.birth,
        candidate.c.fitness,
        candidate.c.params,
        candidate.c.mult_adds,
        candidate.c.origin,
        parent.c.birth.label("parent_birth"),
        candidate.c.code,
        candidate.c.share_inherited,
        candidate.c.lineage_epochs,
        case((candidate.c.thrift == MemoryFallback.HALVED, HALVED_BATCH)).label("deviation"),
        candidate.c.rung,
    ).outerjoin(parent, parent.c.id == candidate.c.parent_id)


_NO_MEASURES: Final = (
    cast(null(), Float).label("reevaluation"),
    cast(null(), Float).label("reevaluation_spread"),
    literal(0).label("reevaluation_seeds"),
    cast(null(), Integer).label("reevaluation_epochs"),
    cast(null(), Float).label("test"),
    cast(null(), Float).label("test_spread"),
    literal(0).label("test_seeds"),
    cast(null(), String).label("test_weights_from"),
)


def _select_retrained(search_id: int) -> Select[tuple[int]]:
    """Select the candidates that have re-evaluations or final models, even unfinished ones."""
    return (
        select(candidate.c.parent_id)
        .join(search, search.c.id == candidate.c.search_id)
        .where(
            search.c.source_id == search_id,
            search.c.kind.in_((SearchKind.REEVALUATION, SearchKind.FINAL)),
            candidate.c.parent_id.is_not(None),
        )
    )


def _add_measures(connection: Connection, query: Select[Any]) -> list[RankedCandidate]:
    """Return the candidates of a query with their re-evaluations and test accuracies."""
    rows = [RankedCandidate(*row) for row in connection.execute(query)]
    if not rows:
        return rows
    # Use a subquery, because databases limit the number of parameters of a statement.
    ids = select(query.subquery().c.id)
    reevaluations, tests = _group_reevaluations(connection, ids), group_tested_models(connection, ids)
    return [_with_test(_with_reevaluation(row, reevaluations.get(row.id, {})), tests.get(row.id, [])) for row in rows]


def _group_reevaluations(
    connection: Connection, candidate_ids: Select[tuple[int]]
) -> dict[int, dict[int, list[float]]]:
    """Return the fitness values of each candidate's re-evaluations, grouped by the number of epochs.

    The recipes of re-evaluations differ only in the number of epochs. Re-evaluations whose spec is damaged are omitted,
    because an error would hide the ranking of their source.
    """
    epochs = null_unless_json(connection, search.c.spec, search.c.spec["training"]["epochs"].as_integer())
    query = (
        select(candidate.c.parent_id, candidate.c.fitness, epochs)
        .join(search, search.c.id == candidate.c.search_id)
        .where(
            candidate.c.parent_id.in_(candidate_ids),
            candidate.c.origin == Origin.REEVALUATION,
            candidate.c.fitness.is_not(None),
        )
    )
    values: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for parent_id, fitness, count in connection.execute(query.order_by(candidate.c.id)):
        if count is not None:
            values[parent_id][count].append(fitness)
    return values


def _with_reevaluation(row: RankedCandidate, by_epochs: dict[int, list[float]]) -> RankedCandidate:
    if not by_epochs:
        return row
    # Use only the re-evaluations with the most epochs, because a mean over different recipes would have no meaning.
    epochs = max(by_epochs)
    values = by_epochs[epochs]
    mean, spread = _mean_and_spread(values)
    return replace(
        row,
        reevaluation=mean,
        reevaluation_spread=spread,
        reevaluation_seeds=len(values),
        reevaluation_epochs=epochs,
    )


def _with_test(row: RankedCandidate, models: list[FinalModel]) -> RankedCandidate:
    # Use only the models with the newest recipe, because a mean over different recipes would have no meaning.
    values = [model.accuracy for model in models if model.accuracy is not None and model.recipe == models[-1].recipe]
    if not values:
        return row
    mean, spread = _mean_and_spread(values)
    source = models[-1].recipe.get(FROM)
    weights_from = None if source is None else str(WeightSource(**source))
    return replace(row, test=mean, test_spread=spread, test_seeds=len(values), test_weights_from=weights_from)


def _mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation if there are at least two values."""
    import statistics  # imported here because it is slow to load, and most rankings have no re-evaluation

    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
