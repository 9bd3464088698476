"""The results of `scale.py` as pictures: of each figure the newest line for each database and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"sqlite": "#3b6ea5", "postgresql": "#c0662b"}
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def newest(lines: list[dict[str, Any]], figure: str, key: str = "history") -> dict[tuple[str, Any], dict[str, Any]]:
    """The last line of each (database, key)."""
    return {(line["database"], line.get(key)): line for line in lines if line["figure"] == figure}


def plot(lines: list[dict[str, Any]], folder: Path) -> None:
    """Write growth.svg, drivers.svg and optuna.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "eatnas-db"
    from matplotlib import pyplot

    def draw(name: str, title: str, unit: str, curves: dict[str, list[tuple[float, float, str, str]]]) -> None:
        figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
        for label, points in curves.items():
            points.sort()
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            axes.plot(xs, ys, marker="o", label=label, color=points[0][2], linestyle=points[0][3])
        axes.set(xscale="log", xlabel="candidates in the record", ylabel=unit, title=title)
        axes.set_ylim(bottom=0) if "Optuna" not in title else axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / name, metadata={"Date": None})
        pyplot.close(figure)

    own = newest(lines, "bookkeeping")
    growth: dict[str, list[tuple[float, float, str, str]]] = {}
    drivers: dict[str, list[tuple[float, float, str, str]]] = {}
    for (kind, size), line in own.items():
        name, colour = NAMES[kind], COLOURS[kind]
        growth.setdefault(name, []).append((size, line["growth"], colour, "-"))
        drivers.setdefault(f"{name}, time", []).append((size, line["ratio"], colour, "-"))
        drivers.setdefault(f"{name}, processor time", []).append((size, line["cpu_ratio"], colour, "--"))
    rivals: dict[str, list[tuple[float, float, str, str]]] = {}
    for (kind, size), line in newest(lines, "optuna").items():
        name, colour = NAMES[kind], COLOURS[kind]
        rivals.setdefault(f"Optuna, {name}", []).append((size, line["optuna_ms"], colour, "--"))
        rivals.setdefault(f"eatnas-db, {name}", []).append((size, line["own_ms"], colour, "-"))
    for file, title, unit, curves in (
        ("growth.svg", "One candidate's bookkeeping as the record grows", "times that of the shortest", growth),
        ("drivers.svg", "One candidate's bookkeeping beside its bare statements", "times the bare driver", drivers),
        ("optuna.svg", "One candidate and one trial of Optuna 5 (NSGA-II)", "ms, busy machine", rivals),
    ):
        if curves:
            draw(file, title, unit, curves)
