"""A report's figures, by plotly. Told apart by dash, mark or pattern as well as by colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Final

import plotly.graph_objects as go

from eatnas_db.domain.architecture import Architecture
from eatnas_db.errors import InvalidArchitectureError
from eatnas_db.queries.lineage import LineageEntry, ScoredChild
from eatnas_db.queries.pareto import Tradeoff
from eatnas_db.queries.primitives import PRIMITIVES, PrimitiveShare
from eatnas_report.data import Findings
from eatnas_report.plots import COLOURS, thinned

BLUE, VERMILION, GREEN = COLOURS[:3]
GREY: Final = "#767676"
SHARES: Final = [[0, "#ffffff"], [1, "#08306b"]]
"""Of one hue and ever darker: the same order in black and white, and to every eye."""
MARKS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x", "pentagon")
MOST_STEPS: Final = 1000
MOST_SLOTS: Final = 64
FEW: Final = 40
"""Up to so many points a line has a mark at each."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, with what it shows in a sentence; `half` of the page's width is enough for it."""

    id: str
    figure: go.Figure
    caption: str
    half: bool = False


def quality(found: Findings) -> list[Drawing]:
    """The population over births and over compute; nothing while it has no member."""
    told = [step for step in found.steps if step.mean is not None]
    if not told:
        return []
    drawn = thinned(told, MOST_STEPS)
    divisor, unit = (3600, "hours") if told[-1].device_seconds > 7200 else (1, "seconds")
    axes = (
        ("births", "births", [float(step.number) for step in drawn]),
        ("compute", f"device {unit}", [step.device_seconds / divisor for step in drawn]),
    )
    sampled = _sampled(len(drawn), len(told), "steps")
    drawings = []
    for key, title, across in axes:
        figure = _figure(title, "fitness")
        mean, spread = [step.mean or 0.0 for step in drawn], [step.spread or 0.0 for step in drawn]
        high = [one + by for one, by in zip(mean, spread, strict=True)]
        low = [one - by for one, by in zip(mean, spread, strict=True)]
        figure.add_scatter(
            x=[*across, *reversed(across)],
            y=[*high, *reversed(low)],
            fill="toself",
            fillcolor="rgba(0, 0, 0, 0.1)",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            name="mean ± spread",
        )
        # A line of a thousand marks would be a band.
        mode = "lines+markers" if len(drawn) <= FEW else "lines"
        lines = (
            ("best", [step.best for step in drawn], VERMILION, "dash", "triangle-up"),
            ("mean", mean, BLUE, "solid", "circle"),
            ("quality", [step.quality for step in drawn], GREEN, "dot", "square"),
        )
        for name, values, colour, dash, mark in lines:
            figure.add_scatter(
                x=across,
                y=values,
                name=name,
                mode=mode,
                line={"color": colour, "dash": dash},
                marker={"symbol": mark},
                hovertemplate="%{y:.4f}",
            )
        figure.update_layout(hovermode="x unified")
        drawings.append(Drawing(f"quality-over-{key}", figure, f"The population over {title}. {sampled}".strip(), True))
    return drawings


def front(found: Findings) -> list[Drawing]:
    """Accuracy against mult-adds, and those that no other beats at both."""
    if not found.front:
        return []
    figure = _figure("mult-adds", "validation accuracy")
    figure.add_scatter(
        x=[one.mult_adds for one in found.cloud],
        y=[one.accuracy for one in found.cloud],
        mode="markers",
        name="scored",
        marker={"symbol": "circle-open", "color": GREY, "size": 6},
        hovertext=[_tradeoff(one) for one in found.cloud],
        hoverinfo="text",
    )
    figure.add_scatter(
        x=[one.mult_adds for one in found.front],
        y=[one.accuracy for one in found.front],
        mode="lines+markers",
        name="Pareto front",
        line={"color": BLUE, "shape": "hv"},
        marker={"symbol": "diamond", "size": 9},
        hovertext=[_tradeoff(one) for one in found.front],
        hoverinfo="text",
    )
    figure.update_layout(height=460)
    sampled = _sampled(len(found.cloud), found.search.scored, "scored candidates")
    return [Drawing("front", figure, f"No candidate beats one on the front at both. {sampled}".strip())]


def family(found: Findings) -> list[Drawing]:
    """The line of the best, and the other children of those in it; hovering shows the blocks and what changed."""
    if not found.lineage:
        return []
    line = found.lineage[::-1]
    depth = {one.id: found.generations - 1 - one.generation for one in line}
    fitness = {one.id: one.fitness for one in line}
    figure = _figure("generation", "fitness, in each search by its own measure")
    _add_ties(
        figure,
        ((depth[one.parent_id], fitness[one.parent_id], depth[one.parent_id] + 1, one.fitness) for one in found.kin),
        {"color": "#bbbbbb", "width": 1},
    )
    steps = [
        (depth[before.id], before.fitness, depth[after.id], after.fitness, before.search == after.search)
        for before, after in pairwise(line)
    ]
    _add_ties(figure, (step[:4] for step in steps if step[4]), {"color": "#000000", "width": 2})
    _add_ties(
        figure,
        (step[:4] for step in steps if not step[4]),
        {"color": "#000000", "width": 2, "dash": "dash"},
        "elastic transfer",
    )
    figure.add_scatter(
        x=[depth[one.parent_id] + 1 for one in found.kin],
        y=[one.fitness for one in found.kin],
        mode="markers",
        name="other children",
        marker={"symbol": "circle-open", "color": GREY, "size": 6},
        hovertext=[_person(one) for one in found.kin],
        hoverinfo="text",
    )
    _add_line(figure, line, depth)
    figure.update_layout(height=480, hoverlabel={"font": {"family": "monospace"}, "align": "left"})
    figure.update_xaxes(range=[-0.5, found.generations + 0.5], **({"dtick": 1} if found.generations <= FEW else {}))
    told = ["Hover over a candidate for its blocks and what changed at its birth."]
    told.append(_sampled(len(line), found.generations, "generations"))
    told.append(_sampled(len(found.kin), found.kin_found, "other children"))
    return [Drawing("lineage", figure, " ".join(filter(None, told)))]


def _add_line(figure: Any, line: Sequence[LineageEntry], depth: dict[int, int]) -> None:
    """The best and its ancestors, each search with a mark of its own."""
    # Their number is written beside few; beside many it would be a blot.
    named = len(line) <= FEW
    for number, search in enumerate(dict.fromkeys(one.search for one in line)):
        of = [one for one in line if one.search == search]
        figure.add_scatter(
            x=[depth[one.id] for one in of],
            y=[one.fitness for one in of],
            mode="markers+text" if named else "markers",
            name=_plain(search),
            text=[str(one.id) for one in of],
            textposition="top center",
            marker={
                "symbol": MARKS[number % len(MARKS)],
                "color": COLOURS[number % len(COLOURS)],
                "size": 12 if named else 7,
                "line": {"color": "#000000", "width": 1 if named else 0},
            },
            hovertext=[_relative(one) for one in of],
            hoverinfo="text",
        )


def primitives(found: Findings) -> list[Drawing]:
    """For each primitive a heat map: which values of which block live at which step."""
    drawings = []
    # The two of most values side by side: figures of like height leave no gap.
    for primitive in sorted(PRIMITIVES, key=("op", "kernel", "depth", "width", "skip").index):
        rows = [row for row in found.primitives if row.primitive == primitive]
        if not rows:
            continue
        steps = sorted({row.step for row in rows})
        lines = list(dict.fromkeys((row.block, row.value) for row in rows))
        cells = {(row.block, row.value, row.step): row for row in rows}
        figure = _figure("step", "")
        figure.add_heatmap(
            x=[str(step) for step in steps],
            y=list(range(len(lines))),
            z=[[_share(cells.get((*line, step))) for step in steps] for line in lines],
            hovertext=[[_cell(primitive, line, step, cells.get((*line, step))) for step in steps] for line in lines],
            hoverinfo="text",
            zmin=0,
            zmax=1,
            colorscale=SHARES,
            colorbar={"tickformat": ".0%", "thickness": 12, "outlinewidth": 1},
            xgap=1,
            ygap=1,
        )
        for row, (before, after) in enumerate(pairwise(lines)):
            if before[0] != after[0]:
                figure.add_hline(y=row + 0.5, line={"color": "#000000", "width": 1})
        figure.update_layout(height=120 + 17 * len(lines), title={"text": primitive, "x": 0.5}, margin={"t": 40})
        figure.update_xaxes(type="category", showgrid=False, nticks=8)
        labels = [f"block {block}: {value}" for block, value in lines]
        figure.update_yaxes(
            range=[len(lines) - 0.5, -0.5],
            showgrid=False,
            tickvals=list(range(len(lines))),
            ticktext=labels,
            tickfont={"size": 10},
        )
        caption = f"Share of the population by {primitive} of each block."
        drawings.append(Drawing(f"primitives-{primitive}", figure, caption, True))
    return drawings


def failures(found: Findings) -> list[Drawing]:
    """How many attempts ended without a score, by kind."""
    if not found.failures:
        return []
    counted = Counter((one.failure, one.state == "failed") for one in found.failures)
    kinds = [kind for kind, _ in Counter(one.failure for one in found.failures).most_common()][::-1]
    figure = _figure("attempts", "")
    for given_up, name, colour, pattern in (
        (False, "its candidate went on", BLUE, ""),
        (True, "its candidate failed in the end", VERMILION, "/"),
    ):
        figure.add_bar(
            orientation="h",
            y=[_plain(kind) for kind in kinds],
            x=[counted[kind, given_up] for kind in kinds],
            name=name,
            marker={"color": colour, "line": {"color": "#000000", "width": 1}, "pattern": {"shape": pattern}},
            hovertemplate="%{y}: %{x}",
        )
    figure.update_layout(barmode="stack", bargap=0.4, height=150 + 34 * len(kinds))
    figure.update_yaxes(type="category")
    return [Drawing("failures", figure, "Attempts that ended without a score, by kind.")]


def utilisation(found: Findings) -> list[Drawing]:
    """How busy each slot was."""
    if not found.utilisation.slots:
        return []
    slots = thinned(found.utilisation.slots, MOST_SLOTS)[::-1]
    figure = _figure("share of the search's wall time", "")
    figure.add_bar(
        orientation="h",
        # With its device, since a slot may have moved to another one.
        y=[_plain(f"{one.host} slot {one.slot}, {one.device}") for one in slots],
        x=[one.busy for one in slots],
        text=[f"{one.busy:.0%}" for one in slots],
        textposition="auto",
        marker={"color": "#56B4E9", "line": {"color": "#000000", "width": 1}},
        hovertext=[f"{one.attempts} attempts, {one.device_seconds:,.0f} device seconds" for one in slots],
        hoverinfo="text",
    )
    figure.update_layout(bargap=0.4, height=130 + 34 * len(slots))
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(type="category")
    told = _sampled(len(slots), len(found.utilisation.slots), "slots")
    return [Drawing("utilisation", figure, f"How much of the time each slot had a candidate of this search. {told}")]


def _figure(across: str, up: str) -> go.Figure:
    axis = {"automargin": True, "gridcolor": "#dddddd", "linecolor": "#000000", "ticks": "outside", "zeroline": False}
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=380,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": "#000000"}},
        xaxis={**axis, "title": {"text": across}},
        yaxis={**axis, "title": {"text": up}},
    )
    return figure


def _add_ties(figure: go.Figure, ties: Iterable[Sequence[Any]], line: dict[str, Any], name: str | None = None) -> None:
    """One trace for all: a gap between each two."""
    across, up = [], []
    for left, low, right, high in ties:
        across += [left, right, None]
        up += [low, high, None]
    if across:
        shown = {"name": name} if name else {"showlegend": False}
        figure.add_scatter(x=across, y=up, mode="lines", line=line, hoverinfo="skip", **shown)


def _sampled(drawn: int, there: int, what: str) -> str:
    """That not everything is drawn, where it is so."""
    return f"Of {there:,} {what} an even sample of {drawn:,} is drawn." if drawn < there else ""


def _plain(text: str) -> str:
    """Text that plotly is not to read as markup."""
    return escape(text, quote=False)


def _tradeoff(one: Tradeoff) -> str:
    return (
        f"{one.id}: accuracy {one.accuracy:.4f}<br>{one.mult_adds:,} mult-adds, {one.params:,} parameters"
        f"<br>birth {one.birth}, {one.origin}"
    )


def _relative(one: LineageEntry) -> str:
    gain = "" if one.gain is None else f" ({one.gain:+.4f})"
    fitness = "not scored" if one.fitness is None else f"fitness {one.fitness:.4f}{gain}"
    changes = one.changes or ("nothing changed",)
    lines = [f"<b>{one.id}</b> {_plain(one.search)}, birth {one.birth}, {one.origin}", fitness]
    return "<br>".join([*lines, *map(_plain, changes), *_blocks(one.code, one.changes)])


def _person(one: ScoredChild) -> str:
    head = f"<b>{one.id}</b> of {one.parent_id}, birth {one.birth}, {one.origin}<br>fitness {one.fitness:.4f}"
    return "<br>".join([head, *_blocks(one.code, ())])


def _blocks(code: str, changes: Sequence[str]) -> list[str]:
    try:
        blocks = Architecture.parse(code).blocks
    except InvalidArchitectureError:  # of a later version
        return [_plain(code)]
    lines = ["block  op   kernel  skip  depth  width"]
    for number, one in enumerate(blocks, 1):
        changed = any(change.startswith(f"block {number} ") for change in changes)
        skip = "yes" if one.skip else "no"
        line = f"{number:>5}  {one.op:<3}  {one.kernel:>6}  {skip:>4}  {one.depth:>5}  {one.width:>5}"
        lines.append(f"<b>{line} ◀</b>" if changed else line)
    return lines


def _share(row: PrimitiveShare | None) -> float:
    return 0.0 if row is None else row.share


def _cell(primitive: str, line: tuple[int, str], step: int, row: PrimitiveShare | None) -> str:
    told = f"block {line[0]}, {primitive} {line[1]}, step {step}"
    if row is None:
        return f"{told}<br>in nobody"
    return f"{told}<br>{row.share:.0%} of the population ({row.members})<br>mean fitness {row.mean_fitness:.4f}"
