"""Save plots of ancestors and descendants as image files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eatnas_db.queries.lineage import LineageEntry, ScoredBirth
from eatnas_report.ancestry_plot import FITNESS_LABEL, MARKERS, MAX_ANCESTORS, draw_ancestry
from eatnas_report.palette import BLACK, LIGHT_GREY, SERIES
from eatnas_report.plots import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """A candidate's position in a plot."""

    search: str
    x: float
    y: float


def draw_lineage(file: Path, relatives: Sequence[LineageEntry], births: Sequence[ScoredBirth] = ()) -> None:
    """Draw a short line of descent over all scored candidates (`births`), and any other family by generation."""
    # A child always has a higher id than its parent, even if they belong to different searches.
    oldest_first = sorted(relatives, key=lambda relative: relative.id)
    is_line = all(child.parent_id == parent.id for parent, child in pairwise(oldest_first))
    if is_line and len(oldest_first) <= MAX_ANCESTORS:
        draw_ancestry(file, oldest_first, births)
    else:
        title = f"Ancestors of {oldest_first[-1].id}" if is_line else f"Descendants of {oldest_first[0].id}"
        _draw_generations(file, oldest_first, title)


def _draw_generations(file: Path, family: Sequence[LineageEntry], title: str) -> None:
    """Draw each scored relative by generation and fitness, with a line to its parent.

    Emphasize the ancestors of the best candidate.
    """
    # Import only here, because the import would slow down the start of the command line.
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
        if len(line_of_best) <= MAX_ANCESTORS:
            for number in line_of_best:
                place = (points[number].x, points[number].y)
                axes.annotate(str(number), place, xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
        axes.margins(y=0.08)
        if points:
            axes.legend(fontsize=8)


def _trace_best(family: Sequence[LineageEntry]) -> list[int]:
    """Return the id of the best candidate of the newest search, followed by the ids of its scored ancestors, newest
    first.
    """
    scored = {relative.id: relative for relative in family if relative.fitness is not None}
    if not scored:
        return []
    newest_search = scored[max(scored)].search
    members = [relative for relative in scored.values() if relative.search == newest_search]
    relative: LineageEntry | None = max(members, key=_rank)
    line = []
    while relative is not None:
        line.append(relative.id)
        relative = scored.get(relative.parent_id or 0)
    return line


def _rank(member: LineageEntry) -> tuple[float, int]:
    # A missing fitness must not count as 0: if the metric is minimized, every fitness is negative, and 0 would rank
    # first.
    return -math.inf if member.fitness is None else member.fitness, -member.id


def _draw_edge(axes: Axes, parent: PlotPoint, child: PlotPoint, **style: Any) -> None:
    axes.plot([parent.x, child.x], [parent.y, child.y], **{"color": BLACK, "zorder": 1, **style})


def _draw_points(axes: Axes, points: Sequence[PlotPoint], size: int = 46) -> None:
    """Draw points with a colour and a marker for each search."""
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
