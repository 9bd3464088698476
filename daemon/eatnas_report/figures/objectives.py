"""The figures of a search with several objectives: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eatnas_db.domain.objectives import OptimizedMetric
from eatnas_db.queries.objective_front import ObjectiveValues
from eatnas_report.data import ReportData
from eatnas_report.figures.figure import ReportFigure, describe_sample, new_plot
from eatnas_report.formats import format_number
from eatnas_report.palette import BLUE, GREY


def objective_figures(data: ReportData) -> list[ReportFigure]:
    """Plot the first objective against each of the other objectives.

    Return no figure for a search with one objective, or before the first score.
    """
    metrics = [objective.metric for objective in data.search.objectives]
    if not data.objective_front:
        return []
    sample = describe_sample(len(data.objective_values), data.search.scored, "scored candidates")
    caption = "The Pareto front consists of the candidates that no other candidate dominates."
    return [
        ReportFigure(
            id=f"objectives-{number}",
            plot=_plot_objectives(data, metrics, number),
            caption=f"{metrics[0]} and {metrics[number]}. {caption} {sample}".strip(),
            half_width=len(metrics) > 2,
        )
        for number in range(1, len(metrics))
    ]


def _plot_objectives(data: ReportData, metrics: Sequence[str], number: int) -> Any:
    plot = new_plot(metrics[number], metrics[0])
    styles: tuple[tuple[Sequence[ObjectiveValues], str, dict[str, Any]], ...] = (
        (data.objective_values, "scored candidates", {"symbol": "circle-open", "color": GREY, "size": 6}),
        (data.objective_front, "Pareto front", {"symbol": "diamond", "color": BLUE, "size": 9}),
    )
    for rows, name, marker in styles:
        plot.add_scatter(
            x=[row.values[number] for row in rows],
            y=[row.values[0] for row in rows],
            mode="markers",
            name=name,
            marker=marker,
            hovertext=[_describe(row, data.search.objectives) for row in rows],
            hoverinfo="text",
        )
    return plot


def _describe(row: ObjectiveValues, objectives: Sequence[OptimizedMetric]) -> str:
    values = "<br>".join(f"{metric} {format_number(value)}" for metric, value in row.by_metric(objectives).items())
    return f"{row.id}: birth {row.birth}, {row.origin}<br>{values}"
