"""The best candidates of a search, by its own scores and by the yardstick's, and how they did on the test part."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, case, func, select

from eatnas_db.domain.objective import TEST_ACCURACY
from eatnas_db.domain.recipe import without_timing
from eatnas_db.domain.states import MemoryFallback, Origin, SearchKind
from eatnas_db.queries.population import LIVING
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import score

HALVED_BATCH: Final = "half micro-batch"


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A scored candidate in the ranking.

    `yardstick`: the mean fitness of its trainings from scratch with fresh seeds, so many of them, and their
    standard deviation (None for fewer than two). `test`: the same of the test accuracy of its final models, those
    of the recipe that was tested last; nothing is ranked by it. `share_inherited` and `lineage_epochs` as in the table
    of candidates.
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
    """How its training was not by the recipe, since memory was out."""
    yardstick: float | None = None
    yardstick_spread: float | None = None
    yardstick_seeds: int = 0
    test: float | None = None
    test_spread: float | None = None
    test_seeds: int = 0


@dataclass(frozen=True, slots=True)
class FinalModel:
    """A final model of a candidate; `recipe` is what of its training section decides bits.

    `accuracy`: on the test part, None until it was looked at.
    """

    candidate_id: int
    search: str
    state: str
    replica: int
    recipe: dict[str, Any]
    accuracy: float | None


def list_best(connection: Connection, search_id: int, top: int = 10) -> tuple[RankedCandidate, ...]:
    """The fittest first; of equals the elder. Those that a yardstick has measured come first, by its measure."""
    scored = _candidates().where(candidate.c.search_id == search_id, candidate.c.fitness.is_not(None))
    fittest = scored.order_by(candidate.c.fitness.desc(), candidate.c.birth).limit(top)
    return _ranked(_measured(connection, fittest))


def get_winner(connection: Connection, search_id: int) -> RankedCandidate | None:
    """The best by the yardstick; without one, the fittest of those who live at the end."""
    return next(iter(list_winners(connection, search_id, 1)), None)


def list_winners(connection: Connection, search_id: int, top: int) -> tuple[RankedCandidate, ...]:
    """The best by the yardstick; where it measured fewer, then the fittest of those who live at the end."""
    measures = (
        select(candidate.c.parent_id)
        .join(search, search.c.id == candidate.c.search_id)
        .where(search.c.source_id == search_id, search.c.kind == SearchKind.YARDSTICK, candidate.c.fitness.is_not(None))
    )
    measured = _measured(connection, _candidates().where(candidate.c.id.in_(measures)))
    first = sorted(measured, key=lambda one: (-(one.yardstick or 0.0), one.birth))[:top]
    others = _living(search_id).where(candidate.c.id.not_in(measures))
    fittest = others.order_by(candidate.c.fitness.desc(), candidate.c.birth).limit(top - len(first))
    return (*first, *_measured(connection, fittest))


def list_living(connection: Connection, search_id: int) -> tuple[RankedCandidate, ...]:
    """The population as it stands, ranked: those that a yardstick has measured first, then by fitness and birth."""
    living = _living(search_id).order_by(candidate.c.fitness.desc(), candidate.c.birth)
    return _ranked(_measured(connection, living))


def _living(search_id: int) -> Select[Any]:
    return _candidates().where(candidate.c.search_id == search_id, LIVING)


def _ranked(found: list[RankedCandidate]) -> tuple[RankedCandidate, ...]:
    return tuple(sorted(found, key=lambda one: (one.yardstick is None, -(one.yardstick or 0))))


def _candidates() -> Select[Any]:
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
    ).outerjoin(parent, parent.c.id == candidate.c.parent_id)


def _measured(connection: Connection, query: Select[Any]) -> list[RankedCandidate]:
    found = [RankedCandidate(*row) for row in connection.execute(query)]
    # By a subquery: a database takes only so many numbers in one statement.
    ids = select(query.subquery().c.id)
    yardsticks, tests = _yardsticks(connection, ids), _tested(connection, ids)
    return [_with_test(_with_yardstick(one, yardsticks[one.id]), tests[one.id]) for one in found]


def _yardsticks(connection: Connection, ids: Select[Any]) -> defaultdict[int, list[float]]:
    query = select(candidate.c.parent_id, candidate.c.fitness).where(
        candidate.c.parent_id.in_(ids), candidate.c.origin == Origin.YARDSTICK, candidate.c.fitness.is_not(None)
    )
    measured: defaultdict[int, list[float]] = defaultdict(list)
    for parent_id, fitness in connection.execute(query.order_by(candidate.c.id)):
        measured[parent_id].append(fitness)
    return measured


def _with_yardstick(one: RankedCandidate, values: list[float]) -> RankedCandidate:
    if not values:
        return one
    mean, spread = _summed_up(values)
    return replace(one, yardstick=mean, yardstick_spread=spread, yardstick_seeds=len(values))


def list_final_models(connection: Connection, candidate_ids: Sequence[int]) -> tuple[FinalModel, ...]:
    """The final models of these candidates, the newest last."""
    return _final_models(connection, candidate.c.parent_id.in_(candidate_ids))


def count_test_evaluations(connection: Connection, search_id: int) -> int:
    """How often the test part was looked at: by the final models of a search, or by a search of final models."""
    of = (search.c.id == search_id) | ((search.c.source_id == search_id) & (search.c.kind == SearchKind.FINAL))
    query = select(func.count()).select_from(event).join(search, search.c.id == event.c.search_id)
    return int(connection.execute(query.where(of, event.c.kind == "tested")).scalar_one())


def _final_models(connection: Connection, of: ColumnElement[bool]) -> tuple[FinalModel, ...]:
    query = (
        select(
            candidate.c.parent_id,
            search.c.name,
            candidate.c.state,
            candidate.c.replica,
            search.c.spec,
            score.c.value,
        )
        .join(search, search.c.id == candidate.c.search_id)
        .outerjoin(score, (score.c.candidate_id == candidate.c.id) & (score.c.metric == TEST_ACCURACY))
        .where(of, candidate.c.origin == Origin.FINAL)
        .order_by(candidate.c.id)
    )
    return tuple(
        FinalModel(row.parent_id, row.name, row.state, row.replica, without_timing(row.spec["training"]), row.value)
        for row in connection.execute(query)
    )


def _tested(connection: Connection, ids: Select[Any]) -> defaultdict[int, list[FinalModel]]:
    tests: defaultdict[int, list[FinalModel]] = defaultdict(list)
    for one in _final_models(connection, candidate.c.parent_id.in_(ids)):
        if one.accuracy is not None:
            tests[one.candidate_id].append(one)
    return tests


def _with_test(one: RankedCandidate, models: list[FinalModel]) -> RankedCandidate:
    # What two recipes came to has no common mean.
    values = [test.accuracy for test in models if test.accuracy is not None and test.recipe == models[-1].recipe]
    if not values:
        return one
    mean, spread = _summed_up(values)
    return replace(one, test=mean, test_spread=spread, test_seeds=len(values))


def _summed_up(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
