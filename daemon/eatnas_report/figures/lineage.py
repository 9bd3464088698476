"""The figure of a candidate's ancestors and of their other children."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

from eatnas_db.domain.architecture import Architecture
from eatnas_db.errors import InvalidArchitectureError
from eatnas_db.queries.lineage import LineageEntry, ScoredChild
from eatnas_report.figures.figure import (
    MAX_MARKED_POINTS,
    ReportFigure,
    describe_sample,
    escape_markup,
    new_plot,
)
from eatnas_report.palette import BLACK, GREY, LIGHT_GREY, SERIES

LINEAGE_HEIGHT: Final = 480
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x", "pentagon")


class HasLineage(Protocol):
    """A candidate with its ancestors, newest first, and other children of the ancestors.

    The ancestors and the other children may be samples.
    """

    @property
    def lineage(self) -> tuple[LineageEntry, ...]:
        """The candidate and its ancestors."""

    @property
    def generations(self) -> int:
        """The number of candidates in the whole lineage, including the candidate itself."""

    @property
    def related(self) -> tuple[ScoredChild, ...]:
        """Other children of the ancestors."""

    @property
    def related_total(self) -> int:
        """The number of all other children, of which `related` may be a sample."""


class Edge(NamedTuple):
    """A line between a parent and a child, with the generation and the fitness of the parent and of the child."""

    parent_generation: int
    parent_fitness: float | None
    child_generation: int
    child_fitness: float | None


def lineage_figures(data: HasLineage) -> list[ReportFigure]:
    """Draw a candidate, its ancestors and their other children. Return no figure if the lineage is empty."""
    if not data.lineage:
        return []
    oldest_first = data.lineage[::-1]
    generation = {relative.id: data.generations - 1 - relative.generation for relative in oldest_first}
    plot = new_plot("generation", "fitness (comparable within one search only)")
    _add_related(plot, data, generation)
    _add_ancestor_edges(plot, oldest_first, generation)
    _add_ancestors(plot, oldest_first, generation)
    plot.update_layout(height=LINEAGE_HEIGHT, hoverlabel={"font": {"family": "monospace"}, "align": "left"})
    every_generation = {"dtick": 1} if data.generations <= MAX_MARKED_POINTS else {}
    plot.update_xaxes(range=[-0.5, data.generations + 0.5], **every_generation)
    sentences = [
        "Hover over a candidate to see its blocks and its mutations.",
        describe_sample(len(oldest_first), data.generations, "generations"),
        describe_sample(len(data.related), data.related_total, "other children"),
    ]
    return [ReportFigure("lineage", plot, " ".join(filter(None, sentences)))]


def _add_related(plot: Any, data: HasLineage, generation: dict[int, int]) -> None:
    fitness = {relative.id: relative.fitness for relative in data.lineage}
    edges = [
        Edge(generation[child.parent_id], fitness[child.parent_id], generation[child.parent_id] + 1, child.fitness)
        for child in data.related
    ]
    _add_edges(plot, edges, {"color": LIGHT_GREY, "width": 1})
    plot.add_scatter(
        x=[edge.child_generation for edge in edges],
        y=[edge.child_fitness for edge in edges],
        mode="markers",
        name="other children",
        marker={"symbol": "circle-open", "color": GREY, "size": 6},
        hovertext=[_describe_related(child) for child in data.related],
        hoverinfo="text",
    )


def _add_ancestor_edges(plot: Any, oldest_first: Sequence[LineageEntry], generation: dict[int, int]) -> None:
    within_search: list[Edge] = []
    transfers: list[Edge] = []
    for parent, child in pairwise(oldest_first):
        edge = Edge(generation[parent.id], parent.fitness, generation[child.id], child.fitness)
        (within_search if parent.search == child.search else transfers).append(edge)
    _add_edges(plot, within_search, {"color": BLACK, "width": 2})
    _add_edges(plot, transfers, {"color": BLACK, "width": 2, "dash": "dash"}, "elastic transfer")


def _add_edges(plot: Any, edges: Iterable[Edge], line: dict[str, Any], name: str | None = None) -> None:
    """Add all edges as one trace, with a gap after each edge."""
    x: list[int | None] = []
    y: list[float | None] = []
    for edge in edges:
        x += [edge.parent_generation, edge.child_generation, None]
        y += [edge.parent_fitness, edge.child_fitness, None]
    if x:
        legend = {"name": name} if name else {"showlegend": False}
        plot.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", **legend)


def _add_ancestors(plot: Any, oldest_first: Sequence[LineageEntry], generation: dict[int, int]) -> None:
    """Add the candidate and its ancestors, with a symbol and a colour for each search."""
    labelled = len(oldest_first) <= MAX_MARKED_POINTS
    for number, search in enumerate(dict.fromkeys(relative.search for relative in oldest_first)):
        members = [relative for relative in oldest_first if relative.search == search]
        plot.add_scatter(
            x=[generation[relative.id] for relative in members],
            y=[relative.fitness for relative in members],
            mode="markers+text" if labelled else "markers",
            name=escape_markup(search),
            text=[str(relative.id) for relative in members],
            textposition="top center",
            marker={
                "symbol": SYMBOLS[number % len(SYMBOLS)],
                "color": SERIES[number % len(SERIES)],
                "size": 12 if labelled else 7,
                "line": {"color": BLACK, "width": 1 if labelled else 0},
            },
            hovertext=[_describe_relative(relative) for relative in members],
            hoverinfo="text",
        )


def _describe_relative(relative: LineageEntry) -> str:
    gain = "" if relative.gain is None else f" ({relative.gain:+.4f})"
    lines = [
        f"<b>{relative.id}</b> {escape_markup(relative.search)}, birth {relative.birth}, {relative.origin}",
        "not scored" if relative.fitness is None else f"fitness {relative.fitness:.4f}{gain}",
        *map(escape_markup, relative.changes or ("no mutation",)),
        *_describe_blocks(relative.code, relative.changes),
    ]
    return "<br>".join(lines)


def _describe_related(child: ScoredChild) -> str:
    title = f"<b>{child.id}</b>, child of {child.parent_id}, birth {child.birth}, {child.origin}"
    return "<br>".join([title, f"fitness {child.fitness:.4f}", *_describe_blocks(child.code, ())])


def _describe_blocks(code: str, changes: Sequence[str]) -> list[str]:
    """Return the blocks as rows of a text table, in which changed blocks are marked."""
    changed_blocks = {change.split(" ")[1] for change in changes}
    try:
        blocks = Architecture.parse(code).blocks
    except InvalidArchitectureError:  # the architecture belongs to another space
        rows = [(number, f"{number:>5}  {escape_markup(text)}") for number, text in enumerate(code.split("/"), 1)]
        return ["block", *(f"<b>{row} ◀</b>" if str(number) in changed_blocks else row for number, row in rows)]
    lines = ["block  op   kernel  skip  depth  width"]
    for number, block in enumerate(blocks, 1):
        changed = str(number) in changed_blocks
        skip = "yes" if block.skip else "no"
        line = f"{number:>5}  {block.op:<3}  {block.kernel:>6}  {skip:>4}  {block.depth:>5}  {block.width:>5}"
        lines.append(f"<b>{line} ◀</b>" if changed else line)
    return lines
