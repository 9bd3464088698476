"""Query the final models of candidates, and the number of evaluations on the test part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from eatnas_db.database.stored_json import DamagedJson
from eatnas_db.domain.final_weights import list_weight_sources, own_training
from eatnas_db.domain.objective import TEST_ACCURACY
from eatnas_db.domain.recipe import without_timing
from eatnas_db.domain.states import Origin, SearchKind
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import score


@dataclass(frozen=True, slots=True)
class FinalModel:
    """A final model of the candidate `candidate_id`, in the search of final models `search`.

    `recipe` has the fields of the section `training` of the search that affect results. `accuracy` is the accuracy on
    the test part; None before the evaluation.
    """

    candidate_id: int
    search: str
    state: str
    replica: int
    recipe: dict[str, Any]
    accuracy: float | None


def list_final_models(connection: Connection, candidate_ids: Sequence[int]) -> tuple[FinalModel, ...]:
    """Return the final models of these candidates, the newest last."""
    return _list_where(connection, candidate.c.parent_id.in_(candidate_ids))


def group_tested_models(connection: Connection, candidate_ids: Select[tuple[int]]) -> dict[int, list[FinalModel]]:
    """Return the tested final models of each candidate that a subquery selects, the newest last.

    Models of a search whose spec is damaged are omitted, because an error would hide the ranking of their source.
    """
    models: dict[int, list[FinalModel]] = defaultdict(list)
    for model in _list_where(connection, candidate.c.parent_id.in_(candidate_ids), only_readable=True):
        if model.accuracy is not None:
            models[model.candidate_id].append(model)
    return models


def count_test_evaluations(connection: Connection, search_id: int) -> int:
    """Count the evaluations of a search's final models on the test part; for a search that trains final models, count
    its own evaluations.
    """
    of_search = (search.c.id == search_id) | ((search.c.source_id == search_id) & (search.c.kind == SearchKind.FINAL))
    query = select(func.count()).select_from(event).join(search, search.c.id == event.c.search_id)
    return int(connection.execute(query.where(of_search, event.c.kind == "tested")).scalar_one())


def list_needed_sources(connection: Connection) -> dict[int, str]:
    """Return the ids of final models whose weights an unfinished search starts from, with the name of the search."""
    unfinished = select(search.c.name, search.c.spec).where(
        search.c.kind == SearchKind.FINAL, search.c.finished_at.is_(None)
    )
    return {
        source.candidate: row.name
        for row in connection.execute(unfinished)
        if isinstance(row.spec, dict)
        for source in list_weight_sources(row.spec.get("training") or {})
    }


def _list_where(
    connection: Connection, condition: ColumnElement[bool], *, only_readable: bool = False
) -> tuple[FinalModel, ...]:
    query = (
        select(
            candidate.c.parent_id,
            search.c.name,
            candidate.c.state,
            candidate.c.replica,
            candidate.c.code,
            search.c.spec,
            score.c.value,
        )
        .join(search, search.c.id == candidate.c.search_id)
        .outerjoin(score, (score.c.candidate_id == candidate.c.id) & (score.c.metric == TEST_ACCURACY))
        .where(condition, candidate.c.origin == Origin.FINAL)
        .order_by(candidate.c.id)
    )
    return tuple(
        FinalModel(
            candidate_id=row.parent_id,
            search=row.name,
            state=row.state,
            replica=row.replica,
            recipe=without_timing(own_training(row.spec["training"], row.code)),
            accuracy=row.value,
        )
        for row in connection.execute(query)
        if not (only_readable and isinstance(row.spec, DamagedJson))
    )
