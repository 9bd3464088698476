"""Lines of descent and the primitives that survive, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from eatnas_cli.pictures.curves import COLOURS, saved
from eatnas_db.queries.lineage import Relative
from eatnas_db.queries.primitives import PRIMITIVES, PrimitiveValue

MOST_LABELS: Final = 30


def draw_family(file: Path, relatives: Sequence[Relative]) -> None:
    """Each relative at its generation and fitness, tied to its parent; a colour and a mark for each search."""
    marks = "osD^vP*"
    depth: dict[int, int] = {}
    # A child's id is always higher than its parent's.
    for one in sorted(relatives, key=lambda relative: relative.id):
        depth[one.id] = depth[one.parent_id] + 1 if one.parent_id in depth else 0
    scored = {one.id: one for one in relatives if one.fitness is not None}
    with saved(file, (10, 5)) as figure:
        axes = figure.add_subplot(title="Line of descent", xlabel="generation", ylabel="fitness")
        axes.grid(visible=True, alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        for one in scored.values():
            if one.parent_id in scored:
                parent = scored[one.parent_id]
                ends = [depth[parent.id], depth[one.id]], [parent.fitness, one.fitness]
                axes.plot(*ends, color="#999999", linewidth=0.8, zorder=1)
        for number, search in enumerate(dict.fromkeys(one.search for one in scored.values())):
            of = [one for one in scored.values() if one.search == search]
            axes.scatter(
                [depth[one.id] for one in of],
                [one.fitness for one in of],
                color=COLOURS[number % len(COLOURS)],
                marker=marks[number % len(marks)],
                label=search,
                zorder=2,
            )
        if len(scored) <= MOST_LABELS:
            for one in scored.values():
                words = ": ".join(filter(None, (str(one.id), ", ".join(one.changes))))
                place = {"xytext": (4, -4), "textcoords": "offset points", "fontsize": 6, "rotation": -60}
                axes.annotate(words, (depth[one.id], one.fitness), rotation_mode="anchor", va="top", **place)
        if scored:
            axes.legend()


def draw_primitives(file: Path, name: str, rows: Sequence[PrimitiveValue]) -> None:
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
                # Darker is more, in black and white too.
                image: Any = axes.imshow(cells, aspect="auto", cmap="cividis_r", vmin=0, vmax=1)
                axes.set_xticks(range(len(steps)), [str(step) for step in steps], rotation=90, fontsize=7)
                labels = [f"block {block}: {value}" for block, value in lines[primitive]]
                axes.set_yticks(range(len(labels)), labels, fontsize=7)
                if primitive == PRIMITIVES[-1]:
                    figure.colorbar(image, ax=axes, format="{x:.0%}")
