"""Plot a candidate's ancestors among all candidates of their searches, above a table of the mutations."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from eatnas_db.domain.states import CandidateState
from eatnas_db.queries.lineage import LineageEntry, ScoredBirth
from eatnas_protocol.long_texts import shorten_middle
from eatnas_report.palette import BLACK, GREY, LIGHT_GREY, SERIES
from eatnas_report.plots import saved_figure
from eatnas_report.sampling import sample_evenly

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ANCESTORS: Final = 60
"""The largest number of ancestors in the plot. Each ancestor has a row in the table."""
MARKERS: Final = "osD^vP*"
FITNESS_LABEL: Final = "fitness (comparable within one search only)"
MUTATIONS_OF_ORIGIN: Final = {"random": "random sample", "basic": "the basic architecture, unchanged"}
"""For each origin of candidates without mutations, what the table shows instead of mutations."""
WIDTH: Final = 10.0
SCATTER_HEIGHT: Final = 3.9
ROW_HEIGHT: Final = 0.26
COLUMNS: Final = (("candidate", 0.0), ("search", 0.11), ("fitness", 0.36), ("gain", 0.46), ("mutations", 0.55))
"""The columns of the table with their positions, as shares of the width."""
CHARACTERS_OF_MUTATIONS: Final = 60
"""The maximum number of characters in a line of mutations. Further mutations are on the next lines."""
CHARACTERS_OF_SEARCH: Final = 28
CHARACTERS_OF_TITLES: Final = 100
"""The maximum number of characters in all names of searches above the plot, whose width suffices for this number."""
NO_BREAK_SPACE: Final = "\xa0"
MAX_POINTS: Final = 2000


class _Panel(NamedTuple):
    """The section of the x axis for one search: it starts at `offset` and has room for `births` births."""

    search: str
    offset: int
    births: int
    colour: str
    marker: str


def draw_ancestry(file: Path, line: Sequence[LineageEntry], births: Sequence[ScoredBirth]) -> None:
    """Draw `line` (a candidate and its ancestors, oldest first) over the scored candidates of their searches."""
    panels = _arrange_searches(line, births)
    mutations = [_wrap_mutations(relative) for relative in line]
    table_height = ROW_HEIGHT * (sum(map(len, mutations)) + 1.5)
    with saved_figure(file, (WIDTH, SCATTER_HEIGHT + table_height)) as figure:
        scatter, table = figure.subplots(2, 1, height_ratios=[SCATTER_HEIGHT, table_height])
        figure.suptitle(_summarize(line), x=0.01, ha="left", fontsize=11, fontweight="bold")
        _draw_candidates(scatter, panels, births)
        _draw_line(scatter, panels, line)
        _label_searches(scatter, panels)
        _write_table(table, panels, line, mutations)


def _arrange_searches(line: Sequence[LineageEntry], births: Sequence[ScoredBirth]) -> list[_Panel]:
    """Divide the x axis among the searches, oldest first; a section is as wide as its search's number of births."""
    last_birth: dict[str, int] = {}
    for relative in line:
        last_birth[relative.search] = max(relative.birth, last_birth.get(relative.search, 0))
    for point in births:
        last_birth[point.search] = max(point.birth, last_birth.get(point.search, 0))
    names = list(dict.fromkeys(relative.search for relative in line))
    counts = [last_birth[name] + 1 for name in names]
    gap = max(1, sum(counts) // 30)
    offsets = accumulate((count + gap for count in counts[:-1]), initial=0)
    return [
        _Panel(name, offset, count, SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)])
        for number, (name, offset, count) in enumerate(zip(names, offsets, counts, strict=True))
    ]


def _summarize(line: Sequence[LineageEntry]) -> str:
    """Return the title: the candidate, its fitness, and the steps that led to it."""
    newest = line[-1]
    mutations = sum(1 for child in line[1:] if child.origin == "mutation")
    transfers = sum(1 for parent, child in pairwise(line) if parent.search != child.search)
    steps = [_count(mutations, "mutation")] if mutations else []
    steps += [_count(transfers, "elastic transfer")] if transfers else []
    fitness = "" if newest.fitness is None else f" (fitness {newest.fitness:.4f})"
    came = f": {' and '.join(steps)} from a random network" if steps and line[0].origin == "random" else ""
    return f"Ancestors of candidate {newest.id}{fitness}{came}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _draw_candidates(axes: Axes, panels: Sequence[_Panel], births: Sequence[ScoredBirth]) -> None:
    """Draw all scored candidates, and the best fitness so far of each search."""
    axes.set(xlabel="candidates in order of birth", ylabel=FITNESS_LABEL)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for panel in panels:
        members = [point for point in births if point.search == panel.search]
        if not members:
            continue
        best = list(accumulate((point.fitness for point in members), max))
        x = [panel.offset + point.birth for point in members]
        axes.step(x, best, where="post", color=panel.colour, linewidth=1.0, alpha=0.5, zorder=1)
        shown = sample_evenly(members, MAX_POINTS)
        axes.scatter(
            [panel.offset + point.birth for point in shown],
            [point.fitness for point in shown],
            s=18,
            color=panel.colour,
            alpha=0.45,
            linewidths=0,
            zorder=1,
        )


def _draw_line(axes: Axes, panels: Sequence[_Panel], line: Sequence[LineageEntry]) -> None:
    """Draw the scored ancestors with their ids, and a line from each ancestor to its child."""
    panel_of = {panel.search: panel for panel in panels}
    scored = [
        (relative, panel_of[relative.search].offset + relative.birth, relative.fitness)
        for relative in line
        if relative.fitness is not None
    ]
    for (parent, *start), (child, *end) in pairwise(scored):
        style = "-" if parent.search == child.search else "--"
        axes.plot([start[0], end[0]], [start[1], end[1]], color=BLACK, linewidth=1.4, linestyle=style, zorder=2)
    for relative, x, fitness in scored:
        panel = panel_of[relative.search]
        axes.scatter(x, fitness, s=70, color=panel.colour, marker=panel.marker, edgecolors=BLACK, zorder=3)
        axes.annotate(
            str(relative.id),
            (x, fitness),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            fontweight="bold",
            zorder=4,
            bbox={"color": "#ffffff", "alpha": 0.7, "pad": 0.6},
        )
    axes.margins(x=0.03, y=0.14)


def _label_searches(axes: Axes, panels: Sequence[_Panel]) -> None:
    """Write the name of each search above its part of the axis, and number the births within the search."""
    ticks: list[tuple[int, str]] = []
    births = sum(panel.births for panel in panels)
    for panel in panels:
        middle = panel.offset + (panel.births - 1) / 2
        name = shorten_middle(panel.search, max(8, CHARACTERS_OF_TITLES * panel.births // births))
        axes.text(middle, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", color=panel.colour)
        ticks += [(panel.offset + birth, str(birth)) for birth in sorted({0, panel.births // 2, panel.births - 1})]
    for panel in panels[1:]:
        axes.axvline(panel.offset - 1, color=LIGHT_GREY, linewidth=0.8, linestyle=":")
    axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks])


def _write_table(
    axes: Axes, panels: Sequence[_Panel], line: Sequence[LineageEntry], mutations: Sequence[Sequence[str]]
) -> None:
    """Write a row for each ancestor: id, search, fitness, gain over its parent, and the lines of its mutations."""
    colours = {panel.search: panel.colour for panel in panels}
    axes.set(xlim=(0, 1), ylim=(sum(map(len, mutations)) + 0.5, -0.5))
    axes.axis("off")
    for title, x in COLUMNS:
        axes.text(x, 0, title, fontsize=8, color=GREY, va="center")
    axes.axhline(0.5, color=LIGHT_GREY, linewidth=0.8)
    row = 1
    for relative, lines in zip(line, mutations, strict=True):
        cells = (
            str(relative.id),
            shorten_middle(relative.search, CHARACTERS_OF_SEARCH),
            "" if relative.fitness is None else f"{relative.fitness:.4f}",
            "" if relative.gain is None else f"{relative.gain:+.4f}",
            lines[0],
        )
        for (title, x), cell in zip(COLUMNS, cells, strict=True):
            colour = colours[relative.search] if title == "search" else BLACK
            axes.text(x, row, cell, fontsize=9, va="center", color=colour)
        for number, text in enumerate(lines[1:], row + 1):
            axes.text(COLUMNS[-1][1], number, text, fontsize=9, va="center", color=BLACK)
        row += len(lines)


def _wrap_mutations(relative: LineageEntry) -> list[str]:
    """Return the mutations of an ancestor in lines that break only between mutations."""
    unbroken = [change.replace(" ", NO_BREAK_SPACE) for change in relative.changes]
    mutations = ", ".join(unbroken) or MUTATIONS_OF_ORIGIN.get(relative.origin, "none")
    if relative.state != CandidateState.SCORED:
        mutations = f"{mutations} ({relative.state})"
    lines = textwrap.wrap(mutations, CHARACTERS_OF_MUTATIONS)
    return [line.replace(NO_BREAK_SPACE, " ") for line in lines]
