"""Save a plot of the Pareto front of several objectives as an image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eatnas_db.domain.objectives import OptimizedMetric
from eatnas_db.queries.objective_front import ObjectiveValues
from eatnas_report.palette import BLUE, GREY
from eatnas_report.plots import saved_figure


def draw_objective_front(
    file: Path,
    name: str,
    objectives: Sequence[OptimizedMetric],
    scored: Sequence[ObjectiveValues],
    front: Sequence[ObjectiveValues],
) -> None:
    """Plot the first objective against each other objective. Raises `ConflictError` for an unsupported suffix."""
    others = range(1, len(objectives))
    with saved_figure(file, (8 if len(others) == 1 else 5 * len(others), 4.5)) as figure:
        figure.suptitle(f"Objectives of {name}")
        for number in others:
            axes = figure.add_subplot(1, len(others), number)
            axes.set(xlabel=objectives[number].metric, ylabel=objectives[0].metric)
            axes.grid(visible=True, alpha=0.3)
            for rows, colour, size, label in (
                (scored, GREY, 12, f"{len(scored):,} scored candidates"),
                (front, BLUE, 36, "Pareto front"),
            ):
                x = [row.values[number] for row in rows]
                axes.scatter(x, [row.values[0] for row in rows], s=size, color=colour, label=label)
            axes.legend()
