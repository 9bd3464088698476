"""Draw the results of `scale.py`: the newest result of each figure, database and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLOURS = {"sqlite": "#3b6ea5", "postgresql": "#c0662b"}
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
Line = dict[str, Any]


@dataclass
class Curve:
    """The points of one line of a plot, as (history, value)."""

    colour: str
    style: str
    points: list[tuple[float, float]] = field(default_factory=list)


class Curves(dict[str, Curve]):
    """Curves, keyed by label."""

    def add(self, label: str, kind: str, x: float, y: float, style: str = "-") -> None:
        """Append a point to a curve in the colour of its database."""
        self.setdefault(label, Curve(COLOURS[kind], style)).points.append((x, y))


def newest_results(lines: Sequence[Line], figure: str) -> dict[tuple[str, int], Line]:
    """Return the last result of each database and history."""
    return {(line["database"], line["history"]): line for line in lines if line["figure"] == figure}


def draw_plots(lines: Sequence[Line], folder: Path) -> None:
    """Write growth.svg, drivers.svg and optuna.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "eatnas-db"
    growth, drivers, optuna = Curves(), Curves(), Curves()
    for (kind, size), line in newest_results(lines, "transactions").items():
        growth.add(NAMES[kind], kind, size, line["growth"])
        drivers.add(f"{NAMES[kind]}, time", kind, size, line["ratio"])
        drivers.add(f"{NAMES[kind]}, processor time", kind, size, line["cpu_ratio"], "--")
    for (kind, size), line in newest_results(lines, "optuna").items():
        optuna.add(f"Optuna, {NAMES[kind]}", kind, size, line["optuna_ms"], "--")
        optuna.add(f"eatnas-db, {NAMES[kind]}", kind, size, line["own_ms"])
    if growth:
        title = "Database work of a candidate as the record grows"
        _draw(folder / "growth.svg", title, "relative to the shortest history", growth)
        title = "Database work of a candidate compared with its bare statements"
        _draw(folder / "drivers.svg", title, "relative to the bare driver", drivers)
    if optuna:
        title = "A candidate and a trial of Optuna 5 (NSGA-II)"
        _draw(folder / "optuna.svg", title, "ms, busy machine", optuna, logarithmic=True)


def _draw(file: Path, title: str, unit: str, curves: Curves, *, logarithmic: bool = False) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for label, curve in curves.items():
        xs, ys = zip(*sorted(curve.points), strict=True)
        axes.plot(xs, ys, marker="o", label=label, color=curve.colour, linestyle=curve.style)
    axes.set(xscale="log", xlabel="candidates in the record", ylabel=unit, title=title)
    axes.set_yscale("log") if logarithmic else axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
