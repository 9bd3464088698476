"""Draw a simple preview of the population's fitness, which the browser shows until the interactive figures load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eatnas_db.queries.quality import PopulationStep
from eatnas_report.palette import BLUE, GREEN, VERMILION

PREVIEW_STEPS: Final = 300
TICKS: Final = 6
_SIDE: Final = 1000
"""The width and the height of the drawing in SVG units. The browser stretches the drawing."""


@dataclass(frozen=True, slots=True)
class PreviewLine:
    """A line of the preview. `points` holds the points of an SVG polyline."""

    name: str
    colour: str
    dashes: str
    points: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis; `percent` is its distance from the left or from the bottom edge."""

    percent: float
    label: str


@dataclass(frozen=True, slots=True)
class QualityPreview:
    """The lines of the figure, the band of mean ± spread, and the labels of both axes."""

    lines: tuple[PreviewLine, ...]
    band: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[Tick, ...]:
        """Return labels at multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        distance = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first, last = math.ceil(self.low / distance), math.floor(self.high / distance)
        return tuple(
            Tick(100 * self.share(number * distance), f"{number * distance:,.6g}") for number in range(first, last + 1)
        )


def preview_quality(steps: Sequence[PopulationStep]) -> QualityPreview | None:
    """Return the preview of the fitness by number of births; None while the population is empty."""
    shown = [step for step in steps if step.mean is not None]
    if not shown:
        return None
    mean = [step.mean or 0.0 for step in shown]
    high = [value + (step.spread or 0.0) for value, step in zip(mean, shown, strict=True)]
    low = [value - (step.spread or 0.0) for value, step in zip(mean, shown, strict=True)]
    series = (
        ("best", [step.best for step in shown], VERMILION, "6 4"),
        ("mean", mean, BLUE, ""),
        ("quality", [step.quality for step in shown], GREEN, "2 3"),
    )
    values = [value for _, row, *_ in series for value in row if value is not None] + high + low
    margin = 0.05 * (max(values) - min(values)) or 0.01
    births, fitness = _Axis(0, shown[-1].number), _Axis(min(values) - margin, max(values) + margin)

    def points(row: Sequence[float | None]) -> str:
        return " ".join(
            f"{_SIDE * births.share(step.number):.0f},{_SIDE * (1 - fitness.share(value)):.0f}"
            for step, value in zip(shown, row, strict=True)
            if value is not None
        )

    return QualityPreview(
        lines=tuple(PreviewLine(name, colour, dashes, points(row)) for name, row, colour, dashes in series),
        band=f"{points(high)} {' '.join(points(low).split()[::-1])}",
        x_ticks=births.ticks(),
        y_ticks=fitness.ticks(),
    )
