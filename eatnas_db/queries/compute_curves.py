"""Several searches, judged by one measure: how much compute each took to get a population of some quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, func, select

from eatnas_db.domain.states import SearchKind
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.schema.searches import search

Measure = Literal["quality", "mean", "best"]
_LEVELS: Final = 5


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What a population was worth when so many device seconds had been spent, and after which step."""

    step: int
    device_seconds: float
    value: float


@dataclass(frozen=True, slots=True)
class ComputeCurve:
    """A search's curve, from its whole initial population on.

    `seconds_before`: what the searches that it was transferred from had taken, and their yardsticks; it is in the
    points' seconds, unless the search was to be looked at alone.
    """

    search: str
    seconds_before: float
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class LevelReached:
    """When a search first reached a level; `ratio` is to the first search's seconds. None: it never did."""

    level: float
    search: str
    device_seconds: float | None
    ratio: float | None


def list_compute_curves(
    connection: Connection, names: Sequence[str], *, measure: Measure = "quality", alone: bool = False
) -> tuple[ComputeCurve, ...]:
    """A curve for each search. Raises `NotFoundError`."""
    return tuple(_course(connection, get_search(connection, name), measure, alone) for name in names)


def list_levels_reached(courses: Sequence[ComputeCurve], levels: Sequence[float] = ()) -> tuple[LevelReached, ...]:
    """For each level and search: after how many device seconds the search first stood there.

    Without levels of the caller's: five, evenly from the lowest start to the highest value of all.
    """
    rows = []
    for level in levels or _levels(courses):
        seconds = [_seconds_to(course, level) for course in courses]
        for course, taken in zip(courses, seconds, strict=True):
            ratio = taken / seconds[0] if taken is not None and seconds[0] else None
            rows.append(LevelReached(level, course.search, taken, ratio))
    return tuple(rows)


def _course(connection: Connection, row: SearchRecord, measure: Measure, alone: bool) -> ComputeCurve:
    before = 0.0 if alone else _seconds_before(connection, row)
    # A population of one or two has no spread to speak of; who had luck first would seem to have arrived.
    points = tuple(
        CurvePoint(step.number, before + step.device_seconds, value)
        for step in list_steps(connection, row.id, after=row.population - 1)
        if (value := getattr(step, measure)) is not None
    )
    return ComputeCurve(row.name, before, points)


def _seconds_before(connection: Connection, row: SearchRecord) -> float:
    """What it cost to find the architecture that a transferred search begins with."""
    seconds, source_id, begun = 0.0, row.source_id, row.created_at
    while source_id is not None:
        source = connection.execute(select(search).where(search.c.id == source_id)).one()
        yardsticks = select(func.coalesce(func.sum(search.c.device_seconds), 0.0)).where(
            search.c.source_id == source_id, search.c.kind == SearchKind.YARDSTICK, search.c.created_at <= begun
        )
        seconds += source.device_seconds + connection.execute(yardsticks).scalar_one()
        source_id, begun = source.source_id, source.created_at
    return seconds


def _levels(courses: Sequence[ComputeCurve]) -> list[float]:
    values = [[point.value for point in course.points] for course in courses if course.points]
    if not values:
        return []
    low, high = min(one[0] for one in values), max(map(max, values))
    if high <= low:
        return [high]
    return [low + (high - low) * number / (_LEVELS - 1) for number in range(_LEVELS - 1)] + [high]


def _seconds_to(course: ComputeCurve, level: float) -> float | None:
    return next((point.device_seconds for point in course.points if point.value >= level), None)
