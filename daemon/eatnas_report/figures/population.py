"""Figures of the population: its fitness, its trade-off between accuracy and cost, and its primitives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from eatnas_db.queries.pareto import Tradeoff
from eatnas_db.queries.primitives import PRIMITIVES, PrimitiveShare
from eatnas_db.queries.quality import PopulationStep
from eatnas_report.data import MAX_STEPS, ReportData
from eatnas_report.figures.figure import MAX_MARKED_POINTS, ReportFigure, describe_sample, new_plot
from eatnas_report.palette import BLUE, GREEN, GREY, VERMILION
from eatnas_report.sampling import sample_evenly

FRONT_HEIGHT: Final = 460
HOURS_FROM_SECONDS: Final = 7200
"""Above this number of seconds, device time is shown in hours."""
SHARE_COLOURS: Final = [[0, "#ffffff"], [1, "#08306b"]]
"""The colours of the heat maps. Shades of one hue stay readable in black and white and for colour-blind readers.
"""
PRIMITIVE_ORDER: Final = ("op", "kernel", "depth", "width", "skip")
"""The two primitives with the most values come first, so that figures side by side have similar heights.
"""


class BlockValue(NamedTuple):
    """A row of a heat map: a value of a primitive in one block. The first block has the number 1."""

    block: int
    value: str


def quality_figures(data: ReportData) -> list[ReportFigure]:
    """Draw the fitness of the population over births and over device time. Return no figure for an empty population."""
    steps = [step for step in data.steps if step.mean is not None]
    if not steps:
        return []
    shown = sample_evenly(steps, MAX_STEPS)
    in_hours = steps[-1].device_seconds > HOURS_FROM_SECONDS
    divisor, unit = (3600, "hours") if in_hours else (1, "seconds")
    births = [float(step.number) for step in shown]
    device_time = [step.device_seconds / divisor for step in shown]
    # For a long search, the data holds only a sample of the steps, so the number of settled candidates gives their
    # total.
    total = data.search.settled if data.search.settled > MAX_STEPS else len(steps)
    sample = describe_sample(len(shown), total, "steps")
    return [
        ReportFigure(
            id="quality-over-births",
            plot=_plot_quality(shown, births, "births"),
            caption=f"Fitness of the population by number of births. {sample}".strip(),
            half_width=True,
        ),
        ReportFigure(
            id="quality-over-compute",
            plot=_plot_quality(shown, device_time, f"device {unit}"),
            caption=f"Fitness of the population by device time. {sample}".strip(),
            half_width=True,
        ),
    ]


def _plot_quality(steps: Sequence[PopulationStep], x: list[float], x_title: str) -> Any:
    plot = new_plot(x_title, "fitness")
    mean = [step.mean or 0.0 for step in steps]
    spread = [step.spread or 0.0 for step in steps]
    high = [value + deviation for value, deviation in zip(mean, spread, strict=True)]
    low = [value - deviation for value, deviation in zip(mean, spread, strict=True)]
    plot.add_scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor="rgba(0, 0, 0, 0.1)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name="mean ± spread",
    )
    lines = (
        ("best", [step.best for step in steps], VERMILION, "dash", "triangle-up"),
        ("mean", mean, BLUE, "solid", "circle"),
        ("quality", [step.quality for step in steps], GREEN, "dot", "square"),
    )
    for name, y, colour, dash, symbol in lines:
        plot.add_scatter(
            x=x,
            y=y,
            name=name,
            mode="lines+markers" if len(steps) <= MAX_MARKED_POINTS else "lines",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol},
            hovertemplate="%{y:.4f}",
        )
    plot.update_layout(hovermode="x unified")
    return plot


def front_figures(data: ReportData) -> list[ReportFigure]:
    """Plot the metric against mult-adds, together with the Pareto front. Return no figure if the front is empty."""
    if not data.front:
        return []
    objective = data.search.objective
    plot = new_plot("mult-adds", objective.label)
    plot.add_scatter(
        x=[candidate.mult_adds for candidate in data.tradeoffs],
        y=[candidate.accuracy for candidate in data.tradeoffs],
        mode="markers",
        name="scored candidates",
        marker={"symbol": "circle-open", "color": GREY, "size": 6},
        hovertext=[_describe_tradeoff(candidate, objective.column) for candidate in data.tradeoffs],
        hoverinfo="text",
    )
    plot.add_scatter(
        x=[candidate.mult_adds for candidate in data.front],
        y=[candidate.accuracy for candidate in data.front],
        mode="lines+markers",
        name="Pareto front",
        line={"color": BLUE, "shape": "hv"},
        marker={"symbol": "diamond", "size": 9},
        hovertext=[_describe_tradeoff(candidate, objective.column) for candidate in data.front],
        hoverinfo="text",
    )
    plot.update_layout(height=FRONT_HEIGHT)
    metric = f"{objective.better} {objective.column}"
    caption = f"No candidate has both {metric} and fewer mult-adds than a candidate on the Pareto front."
    sample = describe_sample(len(data.tradeoffs), data.search.scored, "scored candidates")
    return [ReportFigure("front", plot, f"{caption} {sample}".strip())]


def explain_no_front(data: ReportData) -> str:
    """Return a sentence for a page without a front. Only candidates of the last rung belong to the front."""
    if data.search.scored:
        return "No candidate has reached the last rung yet."
    return "No candidate has a score yet."


def _describe_tradeoff(candidate: Tradeoff, metric: str) -> str:
    return (
        f"{candidate.id}: {metric} {candidate.accuracy:.4f}"
        f"<br>{candidate.mult_adds:,} mult-adds, {candidate.params:,} parameters"
        f"<br>birth {candidate.birth}, {candidate.origin}"
    )


def primitive_figures(data: ReportData) -> list[ReportFigure]:
    """Draw a heat map for each primitive: the share of the population with each value in each block, by step."""
    figures = []
    for primitive in sorted(PRIMITIVES, key=PRIMITIVE_ORDER.index):
        values = [value for value in data.primitives if value.primitive == primitive]
        if values:
            figures.append(
                ReportFigure(
                    id=f"primitives-{primitive}",
                    plot=_plot_primitive(primitive, values),
                    caption=f"Share of the population with each value of {primitive}, by block and step.",
                    half_width=True,
                )
            )
    return figures


def primitive_height(rows: int) -> int:
    """Return the height in pixels of a heat map with this number of rows."""
    return 120 + 17 * rows


def _plot_primitive(primitive: str, values: Sequence[PrimitiveShare]) -> Any:
    steps = sorted({value.step for value in values})
    rows = list(dict.fromkeys(BlockValue(value.block, value.value) for value in values))
    cells = {(value.block, value.value, value.step): value for value in values}
    shares: list[list[float]] = []
    texts: list[list[str]] = []
    for row in rows:
        found = [cells.get((*row, step)) for step in steps]
        shares.append([0.0 if value is None else value.share for value in found])
        texts.append([_describe_share(primitive, row, step, value) for step, value in zip(steps, found, strict=True)])
    plot = new_plot("step", "")
    plot.add_heatmap(
        x=[str(step) for step in steps],
        y=list(range(len(rows))),
        z=shares,
        hovertext=texts,
        hoverinfo="text",
        zmin=0,
        zmax=1,
        colorscale=SHARE_COLOURS,
        colorbar={"tickformat": ".0%", "thickness": 12, "outlinewidth": 1},
        xgap=1,
        ygap=1,
    )
    for number, (row, next_row) in enumerate(pairwise(rows)):
        if row.block != next_row.block:
            plot.add_hline(y=number + 0.5, line={"color": "#000000", "width": 1})
    plot.update_layout(height=primitive_height(len(rows)), title={"text": primitive, "x": 0.5}, margin={"t": 40})
    plot.update_xaxes(type="category", showgrid=False, nticks=8)
    plot.update_yaxes(
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        tickvals=list(range(len(rows))),
        ticktext=[f"block {row.block}: {row.value}" for row in rows],
        tickfont={"size": 10},
    )
    return plot


def _describe_share(primitive: str, row: BlockValue, step: int, value: PrimitiveShare | None) -> str:
    title = f"block {row.block}, {primitive} {row.value}, step {step}"
    if value is None:
        return f"{title}<br>no candidate"
    return f"{title}<br>{value.share:.0%} of the population ({value.members})<br>mean fitness {value.mean_fitness:.4f}"
