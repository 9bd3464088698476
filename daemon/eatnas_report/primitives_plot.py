"""Save a plot of the population's primitives as an image file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eatnas_db.queries.primitives import PRIMITIVES, PrimitiveShare
from eatnas_report.palette import BLACK
from eatnas_report.plots import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_primitives(file: Path, name: str, values: Sequence[PrimitiveShare]) -> None:
    """Draw a heat map for each primitive, with a row for each value in each block and a column for each step."""
    steps = sorted({value.step for value in values})
    rows = {
        primitive: list(dict.fromkeys((value.block, value.value) for value in values if value.primitive == primitive))
        for primitive in PRIMITIVES
    }
    most_rows = max(map(len, rows.values()), default=0)
    with saved_figure(file, (3 * len(PRIMITIVES), 2 + 0.2 * most_rows)) as figure:
        figure.suptitle(f"Share of the population of {name} by step")
        image = None
        for primitive, axes in zip(PRIMITIVES, figure.subplots(1, len(PRIMITIVES)), strict=True):
            shares = {
                (value.block, value.value, value.step): value.share for value in values if value.primitive == primitive
            }
            axes.set_title(primitive)
            if shares:
                image = _draw_heat_map(axes, rows[primitive], steps, shares)
        if image is not None:
            figure.colorbar(image, ax=axes, format="{x:.0%}")


def _draw_heat_map(
    axes: Axes, rows: Sequence[tuple[int, str]], steps: Sequence[int], shares: dict[tuple[int, str, int], float]
) -> Any:
    cells = [[shares.get((*row, step), 0.0) for step in steps] for row in rows]
    # Shades of one hue stay readable in black and white and for colour-blind readers.
    image = axes.imshow(cells, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(steps)), [str(step) for step in steps], rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), [f"block {block}: {value}" for block, value in rows], fontsize=7)
    for number, ((block, _), (next_block, _)) in enumerate(pairwise(rows)):
        if block != next_block:
            axes.axhline(number + 0.5, color=BLACK, linewidth=0.8)
    return image
