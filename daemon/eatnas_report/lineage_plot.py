"""Lines of descent and the primitives that survive, as pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from eatnas_db.queries.lineage import LineageEntry
from eatnas_db.queries.primitives import PRIMITIVES, PrimitiveShare
from eatnas_report.plots import COLOURS, saved

MOST_ROWS: Final = 60
"""A longer line of descent has no row for each generation."""
MARKS: Final = "osD^vP*"
FAINT: Final = "#999999"
SIGNS_A_LINE: Final = 64
MOST_LINES: Final = 3


def draw_family(file: Path, relatives: Sequence[LineageEntry]) -> None:
    """A line of descent as rows that say what changed; a wider or longer family as a cloud of generations."""
    # A child's id is always higher than its parent's, in whatever search it was born.
    eldest_first = sorted(relatives, key=lambda one: one.id)
    line = all(child.parent_id == parent.id for parent, child in pairwise(eldest_first))
    if line and len(eldest_first) <= MOST_ROWS:
        _draw_line(file, eldest_first)
    else:
        _draw_generations(file, eldest_first, "Line of descent" if line else f"What came of {eldest_first[0].id}")


def _draw_line(file: Path, line: Sequence[LineageEntry]) -> None:
    """A row for each generation, the eldest on top: its fitness to the left, how it was born to the right."""
    searches = list(dict.fromkeys(one.search for one in line))
    rows = {one.id: row for row, one in enumerate(line)}
    scored = [one for one in line if one.fitness is not None]
    with saved(file, (10, 1.4 + 0.4 * len(line))) as figure:
        axes, words = figure.subplots(1, 2, width_ratios=[1, 1], sharey=True)
        axes.set(title=f"Where {line[-1].id} comes from", xlabel="fitness, in each search by its own measure")
        axes.grid(visible=True, axis="x", alpha=0.3)
        for before, after in pairwise(scored):
            moved = before.search != after.search
            ends = [before.fitness, after.fitness], [rows[before.id], rows[after.id]]
            axes.plot(*ends, color="#000000", linewidth=1.2, linestyle="--" if moved else "-", zorder=1)
        _mark(axes, searches, [(one.search, one.fitness, rows[one.id]) for one in scored])
        for one in scored:
            gain = "" if one.gain is None else f"  ({one.gain:+.4f})"
            place: dict[str, Any] = {
                "xytext": (9, 0),
                "textcoords": "offset points",
                "fontsize": 8,
                "va": "center",
                "zorder": 2,
            }
            place["bbox"] = {"color": "#ffffff", "alpha": 0.8, "pad": 0.5}
            axes.annotate(f"{one.fitness:.4f}{gain}", (one.fitness, rows[one.id]), **place)
        if scored:
            # Room for the figures beside the fittest.
            low, high = (end([one.fitness or 0.0 for one in scored]) for end in (min, max))
            room = (high - low) or 0.1
            axes.set_xlim(low - 0.08 * room, high + 0.4 * room)
        axes.set_ylim(len(line) - 0.5, -0.5)
        axes.set_yticks(range(len(line)), [f"{one.id}" for one in line])
        axes.tick_params(axis="y", length=0)
        words.set_xlim(0, 1)
        words.set_title("what changed at birth", loc="left")
        words.axis("off")
        for one in line:
            told = textwrap.wrap(_how_born(one), SIGNS_A_LINE, max_lines=MOST_LINES, placeholder=" …")
            words.text(0, rows[one.id], "\n".join(told), fontsize=8, va="center", linespacing=1.05)
        for before, after in pairwise(line):
            if before.search != after.search:
                for part in (axes, words):
                    part.axhline(rows[after.id] - 0.5, color=FAINT, linewidth=0.8, linestyle=":")
        if scored:
            figure.legend(loc="outside lower right", ncols=len(searches), fontsize=8, frameon=False)


def _how_born(one: LineageEntry) -> str:
    changes = ", ".join(one.changes) or {"random": "a random sample", "basic": "the basic architecture, as it was"}.get(
        one.origin, "nothing"
    )
    return changes if one.state == "scored" else f"{changes} ({one.state})"


def _draw_generations(file: Path, family: Sequence[LineageEntry], title: str) -> None:
    """Each relative at its generation and fitness, tied to its parent; the way to the fittest is drawn strong."""
    depth: dict[int, int] = {}
    for one in family:
        depth[one.id] = depth[one.parent_id] + 1 if one.parent_id in depth else 0
    scored = {one.id: one for one in family if one.fitness is not None}
    searches = list(dict.fromkeys(one.search for one in family))
    way = _way_to_the_fittest(scored)
    with saved(file, (11, 5.5)) as figure:
        axes = figure.add_subplot(title=title, xlabel="generation", ylabel="fitness, in each search by its own measure")
        axes.grid(visible=True, alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        for one in scored.values():
            if one.parent_id in scored:
                parent = scored[one.parent_id]
                ends = [depth[parent.id], depth[one.id]], [parent.fitness, one.fitness]
                strong = one.id in way
                style = {"color": "#000000", "linewidth": 1.6} if strong else {"color": "#bbbbbb", "linewidth": 0.6}
                axes.plot(*ends, zorder=2 if strong else 1, **style)
        _mark(axes, searches, [(one.search, depth[one.id], one.fitness) for one in scored.values()], size=18)
        for one in (scored[number] for number in way):
            place = {"xytext": (0, 7), "textcoords": "offset points", "fontsize": 8, "ha": "center"}
            if len(way) <= MOST_ROWS:
                axes.annotate(str(one.id), (depth[one.id], one.fitness), **place)
        axes.margins(y=0.08)
        if scored:
            axes.legend(fontsize=8)


def _way_to_the_fittest(scored: dict[int, LineageEntry]) -> list[int]:
    """The ids from the fittest of the youngest search back to its eldest scored ancestor here."""
    if not scored:
        return []
    youngest = scored[max(scored)].search
    one: LineageEntry | None = max(
        (one for one in scored.values() if one.search == youngest), key=lambda one: (one.fitness or 0.0, -one.id)
    )
    way = []
    while one is not None:
        way.append(one.id)
        one = scored.get(one.parent_id or 0)
    return way


def _mark(axes: Any, searches: Sequence[str], points: Sequence[tuple[str, Any, Any]], size: int = 46) -> None:
    """Points (search, x, y): a colour and a mark for each search."""
    for number, search in enumerate(searches):
        of = [(x, y) for name, x, y in points if name == search]
        axes.scatter(
            [x for x, _ in of],
            [y for _, y in of],
            s=size,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKS[number % len(MARKS)],
            edgecolors="#000000",
            linewidths=0.5,
            label=search,
            zorder=3,
        )


def draw_primitives(file: Path, name: str, rows: Sequence[PrimitiveShare]) -> None:
    """For each primitive a heat map: a line for each value of each block, a column for each step."""
    steps = sorted({row.step for row in rows})
    lines = {
        primitive: list(dict.fromkeys((row.block, row.value) for row in rows if row.primitive == primitive))
        for primitive in PRIMITIVES
    }
    tallest = max(map(len, lines.values()), default=0)
    with saved(file, (3 * len(PRIMITIVES), 2 + 0.2 * tallest)) as figure:
        figure.suptitle(f"Share of the population of {name} over the steps")
        for primitive, axes in zip(PRIMITIVES, figure.subplots(1, len(PRIMITIVES)), strict=True):
            shares = {(row.block, row.value, row.step): row.share for row in rows if row.primitive == primitive}
            cells = [[shares.get((*line, step), 0.0) for step in steps] for line in lines[primitive]]
            axes.set_title(primitive)
            if cells:
                # Of one hue and ever darker: the same order in black and white, and to every eye.
                image: Any = axes.imshow(cells, aspect="auto", cmap="Blues", vmin=0, vmax=1)
                axes.set_xticks(range(len(steps)), [str(step) for step in steps], rotation=90, fontsize=7)
                labels = [f"block {block}: {value}" for block, value in lines[primitive]]
                axes.set_yticks(range(len(labels)), labels, fontsize=7)
                for row, (before, after) in enumerate(pairwise(lines[primitive])):
                    if before[0] != after[0]:
                        axes.axhline(row + 0.5, color="#000000", linewidth=0.8)
                if primitive == PRIMITIVES[-1]:
                    figure.colorbar(image, ax=axes, format="{x:.0%}")
