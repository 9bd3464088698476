"""Query the prediction that decided a guided birth, and explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from eatnas_db.schema.candidates import candidate, prediction
from eatnas_db.schema.searches import search, transfer_source


@dataclass(frozen=True, slots=True)
class PredictedFitness:
    """The predicted fitness of a guided birth, and the values one standard deviation below and above it.

    The model knew `scores` scored births. `agreement` is the correlation of their scores with leave-one-out
    predictions.
    """

    low: float
    middle: float
    high: float
    scores: int
    agreement: float
    reason: str
    """Why this network was proposed, in one sentence."""


def get_predicted_fitness(connection: Connection, candidate_id: int) -> PredictedFitness | None:
    """Return the prediction for a candidate, or None if the model did not decide its birth."""
    columns = (prediction.c.low, prediction.c.middle, prediction.c.high, prediction.c.scores, prediction.c.agreement)
    query = select(*columns, prediction.c.slopes, candidate.c.search_id, search.c.spec)
    query = query.join_from(prediction, candidate).join(search, search.c.id == candidate.c.search_id)
    row = connection.execute(query.where(prediction.c.candidate_id == candidate_id)).first()
    if row is None:
        return None
    sources = list_source_names(connection, row.search_id) if row.slopes else ()
    reason = explain_proposal(
        row.low,
        row.middle,
        row.high,
        row.scores,
        tuple(zip(sources, row.slopes or (), strict=False)),
        per_second=maximizes_per_second(row.spec),
    )
    return PredictedFitness(row.low, row.middle, row.high, row.scores, row.agreement, reason)


def maximizes_per_second(spec: Mapping[str, Any]) -> bool:
    """Return whether the guided births of a stored spec maximize the improvement per predicted device second."""
    return bool(spec["evolution"].get("acquisition") == "improvement_per_second")


def list_source_names(connection: Connection, search_id: int) -> tuple[str, ...]:
    """Return the names of a search's sources, in the order of their slopes."""
    query = (
        select(search.c.name)
        .join(transfer_source, transfer_source.c.source_id == search.c.id)
        .where(transfer_source.c.search_id == search_id)
        .order_by(transfer_source.c.position)
    )
    return tuple(connection.execute(query).scalars())


def explain_proposal(
    low: float,
    middle: float,
    high: float,
    scores: int,
    slopes: Sequence[tuple[str, float]] = (),
    *,
    per_second: bool = False,
) -> str:
    """Explain in one sentence why the model proposed a network. `slopes` has the name and slope of each source.

    `per_second` is true if the search maximizes the improvement per predicted device second.
    """
    listed = ", ".join(f"{name} with slope {slope:.2g}" for name, slope in slopes)
    sources = f" and of the source{'s' if len(slopes) > 1 else ''} {listed}" if slopes else ""
    number = f"{scores} score{'' if scores == 1 else 's'}"
    unit = " per device second" if per_second else ""
    return (
        f"A model of {number}{sources} expected a fitness of {middle:.4f} ({low:.4f} to {high:.4f}), "
        f"and no other network that it compared promised a larger improvement{unit}."
    )
