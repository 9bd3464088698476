"""Curves and clouds as PNG, by matplotlib; told apart by line and mark as well as by colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Final, TypeVar

from eatnas_db.errors import ConflictError
from eatnas_db.queries.compare import ComputeCurve
from eatnas_db.queries.pareto import Tradeoff
from eatnas_db.queries.quality import PopulationStep

T = TypeVar("T")

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's: told apart by colour-blind people."""
LINES: Final = ("-", "--", "-.", ":")
COMPUTE: Final = "device seconds"
MOST_POINTS: Final = 2000
ENDINGS: Final = (".png", ".svg", ".pdf")


def check_picture(file: Path) -> None:
    """Raise `ConflictError` unless the file's name says which kind of picture it is to be."""
    if file.suffix.lower() not in ENDINGS:
        raise ConflictError(f"{file}: a picture's name ends in {', '.join(ENDINGS)}")


def draw_quality(file: Path, name: str, steps: Sequence[PopulationStep], *, over_compute: bool) -> None:
    """The population's mean with its spread, and its best, over births or over device seconds."""
    told = [step for step in thinned(steps) if step.mean is not None]
    across = [step.device_seconds if over_compute else step.number for step in told]
    means = [step.mean or 0.0 for step in told]
    spreads = [step.spread or 0.0 for step in told]
    bests = [step.best or 0.0 for step in told]
    with _axes(file, f"Population of {name}", COMPUTE if over_compute else "births", "fitness") as axes:
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(across, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="mean ± spread")
        axes.plot(across, means, color=COLOURS[0], label="mean")
        axes.plot(across, bests, color=COLOURS[1], linestyle="--", label="best")
        axes.legend()


def draw_courses(file: Path, courses: Sequence[ComputeCurve], measure: str) -> None:
    """One line for each search over device seconds."""
    with _axes(file, f"{measure} against compute", COMPUTE, measure) as axes:
        for course, colour, line in zip(courses, cycle(COLOURS), cycle(LINES), strict=False):
            points = thinned(course.points)
            axes.plot(
                [point.device_seconds for point in points],
                [point.value for point in points],
                color=colour,
                linestyle=line,
                label=course.search,
                # A search of a single point would have no line.
                marker="o" if len(points) == 1 else None,
            )
        axes.legend()


def draw_front(file: Path, name: str, cost: str, cloud: Sequence[Tradeoff], front: Sequence[Tradeoff]) -> None:
    """All that was scored, and the front as steps above it."""
    with _axes(file, f"Accuracy against cost in {name}", cost.replace("_", " "), "validation accuracy") as axes:
        axes.scatter(
            [getattr(one, cost) for one in cloud],
            [one.accuracy for one in cloud],
            s=12,
            color="#999999",
            label=f"{len(cloud):,} of the scored",
        )
        axes.step(
            [getattr(one, cost) for one in front],
            [one.accuracy for one in front],
            where="post",
            color=COLOURS[0],
            marker="o",
            label="front",
        )
        axes.legend()


def thinned(rows: Sequence[T], most: int = MOST_POINTS) -> list[T]:
    """At most so many, evenly spaced, the last always among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(number * (len(rows) - 1) / (most - 1))] for number in range(most)]


@contextmanager
def saved(file: Path, inches: tuple[float, float]) -> Iterator[Any]:
    """A figure to draw on, written to the file at the end. Raises `ConflictError` for an ending we do not know."""
    # Without pyplot, which would look for a screen and keep every figure.
    from matplotlib.figure import Figure

    check_picture(file)
    figure = Figure(figsize=inches, dpi=120, layout="constrained")
    yield figure
    figure.savefig(file)


@contextmanager
def _axes(file: Path, title: str, across: str, up: str) -> Iterator[Any]:
    with saved(file, (8, 4.5)) as figure:
        axes = figure.add_subplot(title=title, xlabel=across, ylabel=up)
        axes.grid(visible=True, alpha=0.3)
        yield axes
