"""Draw curves in a terminal with braille characters of two by four dots each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eatnas_db.queries.quality import PopulationStep
from eatnas_report.plots import COMPUTE, MAX_POINTS
from eatnas_report.sampling import sample_evenly

Curve = Sequence[tuple[float, float]]
_EMPTY: Final = "⠀"
_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot in a braille character, by row and column."""


def draw_quality_curve(steps: Sequence[PopulationStep], *, over_compute: bool) -> str:
    """Draw the mean and the best fitness of the population over births, or over device seconds."""
    shown = [step for step in sample_evenly(steps, MAX_POINTS) if step.mean is not None]
    x = [step.device_seconds if over_compute else float(step.number) for step in shown]
    mean = [step.mean or 0.0 for step in shown]
    spread = [step.spread or 0.0 for step in shown]
    best = [step.best or 0.0 for step in shown]
    plot = draw_curves(
        [list(zip(x, best, strict=True)), list(zip(x, mean, strict=True))],
        across=COMPUTE if over_compute else "births",
    )
    if not shown:
        return plot
    return f"{plot}\nupper curve: best {best[-1]:.4f}; lower curve: mean {mean[-1]:.4f} ± {spread[-1]:.4f}"


def draw_curves(curves: Sequence[Curve], *, width: int = 72, height: int = 14, across: str = "") -> str:
    """Draw curves of (x, y) points in `width` by `height` characters, and label the ends of both axes.

    `across` is the title of the x axis.
    """
    points = [point for curve in curves for point in curve]
    if not points:
        return "no data yet"
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    last_column, last_row = 2 * width - 1, 4 * height - 1
    characters = [[ord(_EMPTY)] * width for _ in range(height)]

    def find_column(x: float) -> int:
        return round((x - left) / (right - left or 1) * last_column)

    def set_dot(column: int, y: float) -> None:
        row = last_row - round((y - low) / (high - low or 1) * last_row)
        characters[row // 4][column // 2] |= _DOTS[row % 4][column % 2]

    for curve in curves:
        for (x, y), (next_x, next_y) in zip(curve, [*curve[1:], curve[-1]], strict=True):
            start, end = find_column(x), find_column(next_x)
            for column in range(start, end + 1):
                set_dot(column, y + (next_y - y) * (column - start) / max(end - start, 1))
    labels = [f"{high:.4f}", *[""] * (height - 2), f"{low:.4f}"]
    margin = max(map(len, labels))
    lines = [
        f"{label:>{margin}} ┤{''.join(map(chr, row))}".rstrip(_EMPTY)
        for label, row in zip(labels, characters, strict=True)
    ]
    title = across.center(width - len(f"{left:g}") - len(f"{right:g}"))
    return "\n".join([*lines, f"{'':{margin}} └{'─' * width}", f"{'':{margin}}  {left:g}{title}{right:g}"])
