"""Compare searches by the device seconds that each needs until its population reaches a quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, select, union_all

from eatnas_db.domain.recipe import INHERITED
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.schema.searches import search, transfer_source

Measure = Literal["quality", "mean", "best"]
_DEFAULT_LEVELS: Final = 5


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The value of a population after a step, and the device seconds until this step."""

    step: int
    device_seconds: float
    value: float


@dataclass(frozen=True, slots=True)
class ComputeCurve:
    """The values of a search's population over device seconds, beginning with the complete initial population.

    The seconds of each point include `seconds_before`, the device seconds that the search's sources and their
    re-evaluations had used until the transfer.
    """

    search: str
    seconds_before: float
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class LevelReached:
    """The device seconds that a search needed to reach a level; None if it did not reach the level.

    `ratio` is the quotient of these seconds and the seconds of the first compared search.
    """

    level: float
    search: str
    device_seconds: float | None
    ratio: float | None


def list_compute_curves(
    connection: Connection, names: Sequence[str], *, measure: Measure = "quality", alone: bool = False
) -> tuple[ComputeCurve, ...]:
    """Return one curve for each search, even if its name is repeated. With `alone`, `seconds_before` is 0.

    Raises `NotFoundError`.
    """
    searches = (get_search(connection, name) for name in dict.fromkeys(names))
    return tuple(_compute_curve(connection, search, measure, alone) for search in searches)


def list_levels_reached(curves: Sequence[ComputeCurve], levels: Sequence[float] = ()) -> tuple[LevelReached, ...]:
    """Return one row for each level and curve.

    The default levels are five evenly spaced values from the lowest start of a curve to the highest value of any curve.
    """
    rows = []
    for level in levels or _default_levels(curves):
        seconds = [_seconds_until(curve, level) for curve in curves]
        for curve, needed in zip(curves, seconds, strict=True):
            ratio = needed / seconds[0] if needed is not None and seconds[0] else None
            rows.append(LevelReached(level=level, search=curve.search, device_seconds=needed, ratio=ratio))
    return tuple(rows)


def list_reservations(searches: Sequence[SearchRecord]) -> list[str]:
    """Return one sentence for each reason why the scores of these searches may not be comparable."""
    if len(searches) < 2:
        return []
    reservations = []
    tasks = {search.name: _describe_task(search) for search in searches}
    if len({(search.data_digest, *tasks[search.name]) for search in searches}) > 1:
        listed = "; ".join(f"{name}: {', '.join(task)}" for name, task in tasks.items())
        reservations.append(f"the tasks of these searches differ, so their scores are not comparable ({listed})")
    inheriting = [
        search.name
        for search in searches
        if INHERITED in (search.spec["inheritance"]["weights"], search.spec["transfer"]["weights"])
    ]
    if inheriting:
        reservations.append(
            f"candidates of {', '.join(inheriting)} inherited weights; compare such searches only by their "
            "re-evaluations (`query best` shows them)"
        )
    return reservations


def _describe_task(record: SearchRecord) -> tuple[str, ...]:
    task, digest = record.task, record.data_digest[:12]
    size = f"{task['resolution']}x{task['resolution']}x{task['channels']}"
    return (record.spec["data"]["name"], size, f"{task['classes']} classes", f"digest {digest}")


def _compute_curve(connection: Connection, record: SearchRecord, measure: Measure, alone: bool) -> ComputeCurve:
    before = 0.0 if alone else _seconds_before(connection, record)
    # Start with the full population: in a smaller population, a lucky first candidate could reach a high level alone.
    points = tuple(
        CurvePoint(step=step.number, device_seconds=before + step.device_seconds, value=value)
        for step in list_steps(connection, record.id, after=record.population - 1)
        if (value := getattr(step, measure)) is not None
    )
    return ComputeCurve(search=record.name, seconds_before=before, points=points)


def _seconds_before(connection: Connection, record: SearchRecord) -> float:
    """Return the device seconds of all direct and indirect sources of a search. Each source counts once.

    For each source, only the seconds that it had used at the last transfer from it count. Therefore, extending a source
    does not change the curves of searches that were transferred from it before.
    """
    seconds: dict[int, float] = {}
    waiting = [record.id]
    while waiting:
        child_id = waiting.pop()
        first = select(search.c.source_id, search.c.source_seconds).where(search.c.id == child_id)
        modelled = select(transfer_source.c.source_id, transfer_source.c.device_seconds)
        sources = union_all(first, modelled.where(transfer_source.c.search_id == child_id))
        for source_id, used in connection.execute(sources).all():
            if source_id is None:
                continue
            if source_id not in seconds:
                waiting.append(source_id)
            seconds[source_id] = max(seconds.get(source_id, 0.0), used or 0.0)
    return math.fsum(seconds.values())


def _default_levels(curves: Sequence[ComputeCurve]) -> list[float]:
    values = [[point.value for point in curve.points] for curve in curves if curve.points]
    if not values:
        return []
    low, high = min(points[0] for points in values), max(map(max, values))
    if high <= low:
        return [high]
    intervals = _DEFAULT_LEVELS - 1
    return [low + (high - low) * number / intervals for number in range(intervals)] + [high]


def _seconds_until(curve: ComputeCurve, level: float) -> float | None:
    return next((point.device_seconds for point in curve.points if point.value >= level), None)
