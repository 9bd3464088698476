"""Compare the predicted fitness of guided births with the measured fitness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Connection, Select, Text, case, cast, func, select

from eatnas_db.queries.paging import Page, fetch_page
from eatnas_db.schema.candidates import candidate, prediction

EXPECTED_SHARE: Final = 0.683
"""The share of a normal distribution within one standard deviation of its mean."""


@dataclass(frozen=True, slots=True)
class PredictedBirth:
    """A guided birth with its prediction and its fitness. `within` is true if the fitness is between `low` and `high`.

    Four fields are in normal scores: the predicted `mean`, its standard `deviation`, the expected `improvement`, and
    its `margin` over the next best network. `kernel`, `noise` and `slopes` describe the model. `slopes` has the slope
    of each source in the order of `list_source_names`, and is None in a search without sources.
    """

    id: int
    birth: int
    origin: str
    low: float
    predicted: float
    high: float
    fitness: float | None
    within: bool | None
    scores: int
    agreement: float
    improvement: float
    margin: float
    model_births: int
    noise: float
    mean: float
    deviation: float
    kernel: tuple[float, ...]
    slopes: tuple[float, ...] | None


_PREDICTED_FIELDS: Final = tuple(field.name for field in fields(PredictedBirth))


@dataclass(frozen=True, slots=True)
class Calibration:
    """The quality of a search's predictions.

    `share_within` is the share of births whose measured fitness is within one standard deviation of the prediction. The
    share would be `EXPECTED_SHARE` with a perfectly calibrated model, and is usually smaller: the model underestimates
    its errors, and `low` and `high` never leave the range of the scores that it knew. `correlation` is the correlation
    of predicted and measured fitness.
    """

    predicted: int
    scored: int
    share_within: float | None
    mean_error: float | None
    correlation: float | None


def list_predictions(connection: Connection, search_id: int, page: Page) -> list[PredictedBirth]:
    """Return the guided births of a search in order of birth."""
    return fetch_page(connection, _select_predictions(search_id), page, row_type=_read_prediction, order=("birth",))


def _read_prediction(*columns: Any) -> PredictedBirth:
    """Make a `PredictedBirth` from a row of `_select_predictions`, whose last two columns are JSON strings."""
    row = dict(zip(_PREDICTED_FIELDS, columns, strict=True))
    decoded = {name: None if row[name] is None else tuple(json.loads(row[name])) for name in ("kernel", "slopes")}
    return PredictedBirth(**{**row, **decoded})


def get_calibration(connection: Connection, search_id: int) -> Calibration:
    """Return the quality of a search's predictions. The figures are None if no predicted candidate is scored."""
    rows = _select_predictions(search_id).subquery()
    predicted, fitness = rows.c.predicted, rows.c.fitness
    scored = select(rows).where(fitness.is_not(None)).subquery()
    total, count = connection.execute(select(func.count(), func.count(fitness)).select_from(rows)).one()
    if not count:
        return Calibration(total, 0, None, None, None)
    sums = connection.execute(
        select(
            func.sum(case((scored.c.within, 1), else_=0)),
            func.sum(func.abs(scored.c.fitness - scored.c.predicted)),
            func.avg(scored.c.predicted),
            func.avg(scored.c.fitness),
        )
    ).one()
    within, error, mean_predicted, mean_fitness = map(float, sums)
    pairs = connection.execute(select(predicted - mean_predicted, fitness - mean_fitness).where(fitness.is_not(None)))
    return Calibration(total, count, within / count, error / count, _correlation([tuple(pair) for pair in pairs]))


def _correlation(pairs: Sequence[tuple[float, ...]]) -> float | None:
    """Return the correlation of centred pairs, or None if one side is constant."""
    xx, yy, xy = (sum(pair[i] * pair[j] for pair in pairs) for i, j in ((0, 0), (1, 1), (0, 1)))
    return xy / (xx * yy) ** 0.5 if xx > 0 and yy > 0 else None


def _select_predictions(search_id: int) -> Select[tuple[object, ...]]:
    within = (candidate.c.fitness >= prediction.c.low) & (candidate.c.fitness <= prediction.c.high)
    return (
        select(
            candidate.c.id,
            candidate.c.birth,
            candidate.c.origin,
            prediction.c.low,
            prediction.c.middle.label("predicted"),
            prediction.c.high,
            candidate.c.fitness,
            case((candidate.c.fitness.is_(None), None), else_=within).label("within"),
            prediction.c.scores,
            prediction.c.agreement,
            prediction.c.improvement,
            prediction.c.margin,
            prediction.c.model_births,
            prediction.c.noise,
            prediction.c.mean,
            prediction.c.deviation,
            # Cast to text: PostgreSQL does not compare JSON, and a page may have conditions on every column.
            cast(prediction.c.kernel, Text).label("kernel"),
            cast(prediction.c.slopes, Text).label("slopes"),
        )
        .join(candidate, candidate.c.id == prediction.c.candidate_id)
        .where(candidate.c.search_id == search_id)
    )
