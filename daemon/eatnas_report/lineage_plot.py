"""Plots of ancestors and descendants as image files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eatnas_db.domain.states import CandidateState
from eatnas_db.queries.lineage import LineageEntry
from eatnas_report.palette import BLACK, GREY, LIGHT_GREY, SERIES
from eatnas_report.plots import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ROWS: Final = 60
"""A longer line of descent is drawn by generation, without a row for each candidate."""
MARKERS: Final = "osD^vP*"
CHARACTERS_PER_LINE: Final = 64
MAX_LINES: Final = 3
FITNESS_LABEL: Final = "fitness (comparable within one search only)"
MUTATIONS_OF_ORIGIN: Final = {"random": "random sample", "basic": "basic architecture, unchanged"}
"""The text for a candidate without mutations, by its origin."""


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """A candidate's position in a plot."""

    search: str
    x: float
    y: float


def draw_lineage(file: Path, relatives: Sequence[LineageEntry]) -> None:
    """Draw a line of descent with a row for each mutation, or a wider or longer family by generation."""
    # A child's id is higher than its parent's, also across searches.
    oldest_first = sorted(relatives, key=lambda relative: relative.id)
    is_line = all(child.parent_id == parent.id for parent, child in pairwise(oldest_first))
    if is_line and len(oldest_first) <= MAX_ROWS:
        _draw_rows(file, oldest_first)
    else:
        title = f"Ancestors of {oldest_first[-1].id}" if is_line else f"Descendants of {oldest_first[0].id}"
        _draw_generations(file, oldest_first, title)


def _draw_rows(file: Path, line: Sequence[LineageEntry]) -> None:
    """Draw a row for each generation, the oldest at the top: fitness on the left, mutations on the right."""
    with saved_figure(file, (10, 1.4 + 0.4 * len(line))) as figure:
        fitness_axes, text_axes = figure.subplots(1, 2, width_ratios=[1, 1], sharey=True)
        _draw_fitness(fitness_axes, line)
        _write_mutations(text_axes, line)
        for row, (parent, child) in enumerate(pairwise(line), 1):
            if parent.search != child.search:
                for axes in (fitness_axes, text_axes):
                    axes.axhline(row - 0.5, color=GREY, linewidth=0.8, linestyle=":")
        if any(relative.fitness is not None for relative in line):
            searches = len({relative.search for relative in line})
            figure.legend(loc="outside lower right", ncols=searches, fontsize=8, frameon=False)


def _draw_fitness(axes: Axes, line: Sequence[LineageEntry]) -> None:
    scored = [
        (relative, PlotPoint(relative.search, relative.fitness, row))
        for row, relative in enumerate(line)
        if relative.fitness is not None
    ]
    points = [point for _, point in scored]
    axes.set(title=f"Ancestors of {line[-1].id}", xlabel=FITNESS_LABEL)
    axes.grid(visible=True, axis="x", alpha=0.3)
    for parent, child in pairwise(points):
        style = "-" if parent.search == child.search else "--"
        _draw_edge(axes, parent, child, linewidth=1.2, linestyle=style)
    _draw_points(axes, points)
    for relative, point in scored:
        gain = "" if relative.gain is None else f"  ({relative.gain:+.4f})"
        axes.annotate(
            f"{point.x:.4f}{gain}",
            (point.x, point.y),
            xytext=(9, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
            zorder=2,
            bbox={"color": "#ffffff", "alpha": 0.8, "pad": 0.5},
        )
    if points:
        # Leave space for the numbers to the right of the points.
        low, high = (limit(point.x for point in points) for limit in (min, max))
        width = (high - low) or 0.1
        axes.set_xlim(low - 0.08 * width, high + 0.4 * width)
    axes.set_ylim(len(line) - 0.5, -0.5)
    axes.set_yticks(range(len(line)), [str(relative.id) for relative in line])
    axes.tick_params(axis="y", length=0)


def _write_mutations(axes: Axes, line: Sequence[LineageEntry]) -> None:
    axes.set_xlim(0, 1)
    axes.set_title("mutations", loc="left")
    axes.axis("off")
    for row, relative in enumerate(line):
        text = textwrap.wrap(_describe_mutations(relative), CHARACTERS_PER_LINE, max_lines=MAX_LINES, placeholder=" …")
        axes.text(0, row, "\n".join(text), fontsize=8, va="center", linespacing=1.05)


def _describe_mutations(relative: LineageEntry) -> str:
    mutations = ", ".join(relative.changes) or MUTATIONS_OF_ORIGIN.get(relative.origin, "none")
    return mutations if relative.state == CandidateState.SCORED else f"{mutations} ({relative.state})"


def _draw_generations(file: Path, family: Sequence[LineageEntry], title: str) -> None:
    """Draw each scored relative by generation and fitness, with a line to its parent; emphasize the best's line."""
    # Not at module level, where it would slow down the start of the command line.
    from matplotlib.ticker import MaxNLocator

    generation: dict[int | None, int] = {}
    for relative in family:
        generation[relative.id] = generation.get(relative.parent_id, -1) + 1
    points = {
        relative.id: PlotPoint(relative.search, generation[relative.id], relative.fitness)
        for relative in family
        if relative.fitness is not None
    }
    line_of_best = _trace_best(family)
    with saved_figure(file, (11, 5.5)) as figure:
        axes = figure.add_subplot(title=title, xlabel="generation", ylabel=FITNESS_LABEL)
        axes.grid(visible=True, alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for relative in family:
            parent, child = points.get(relative.parent_id or 0), points.get(relative.id)
            if parent is not None and child is not None:
                if relative.id in line_of_best:
                    _draw_edge(axes, parent, child, linewidth=1.6, zorder=2)
                else:
                    _draw_edge(axes, parent, child, color=LIGHT_GREY, linewidth=0.6)
        _draw_points(axes, list(points.values()), size=18)
        if len(line_of_best) <= MAX_ROWS:
            for number in line_of_best:
                place = (points[number].x, points[number].y)
                axes.annotate(str(number), place, xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
        axes.margins(y=0.08)
        if points:
            axes.legend(fontsize=8)


def _trace_best(family: Sequence[LineageEntry]) -> list[int]:
    """Return the ids of the best candidate of the newest search and of its scored ancestors, newest first."""
    scored = {relative.id: relative for relative in family if relative.fitness is not None}
    if not scored:
        return []
    newest_search = scored[max(scored)].search
    members = [relative for relative in scored.values() if relative.search == newest_search]
    relative: LineageEntry | None = max(members, key=lambda member: (member.fitness or 0.0, -member.id))
    line = []
    while relative is not None:
        line.append(relative.id)
        relative = scored.get(relative.parent_id or 0)
    return line


def _draw_edge(axes: Axes, parent: PlotPoint, child: PlotPoint, **style: Any) -> None:
    axes.plot([parent.x, child.x], [parent.y, child.y], **{"color": BLACK, "zorder": 1, **style})


def _draw_points(axes: Axes, points: Sequence[PlotPoint], size: int = 46) -> None:
    """Draw points, with another colour and marker for each search."""
    for number, search in enumerate(dict.fromkeys(point.search for point in points)):
        members = [point for point in points if point.search == search]
        axes.scatter(
            [point.x for point in members],
            [point.y for point in members],
            s=size,
            color=SERIES[number % len(SERIES)],
            marker=MARKERS[number % len(MARKERS)],
            edgecolors=BLACK,
            linewidths=0.5,
            label=search,
            zorder=3,
        )
