"""Save plots as image files with matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eatnas_db.domain.objective import Objective
from eatnas_db.errors import ConflictError
from eatnas_db.queries.compute_curves import ComputeCurve
from eatnas_db.queries.pareto import Tradeoff
from eatnas_db.queries.quality import PopulationStep
from eatnas_report.palette import BLUE, GREY, SERIES, VERMILION
from eatnas_report.sampling import sample_evenly

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_STYLES: Final = ("-", "--", "-.", ":")
COMPUTE: Final = "device seconds"
MAX_POINTS: Final = 2000
SUFFIXES: Final = (".png", ".svg", ".pdf")
DEFAULT_OBJECTIVE: Final = Objective()


def check_image_suffix(file: Path) -> None:
    """Raise `ConflictError` unless the file name ends in a supported suffix."""
    if file.suffix.lower() not in SUFFIXES:
        raise ConflictError(f"{file}: unsupported image format; use a file name that ends in {', '.join(SUFFIXES)}")


def draw_quality(file: Path, name: str, steps: Sequence[PopulationStep], *, over_compute: bool) -> None:
    """Draw the mean, spread and best fitness of the population over births, or over device seconds."""
    shown = [step for step in sample_evenly(steps, MAX_POINTS) if step.mean is not None]
    x = [step.device_seconds if over_compute else step.number for step in shown]
    mean = [step.mean or 0.0 for step in shown]
    spread = [step.spread or 0.0 for step in shown]
    best = [step.best or 0.0 for step in shown]
    with _axes(file, f"Population of {name}", COMPUTE if over_compute else "births", "fitness") as axes:
        low = [value - deviation for value, deviation in zip(mean, spread, strict=True)]
        high = [value + deviation for value, deviation in zip(mean, spread, strict=True)]
        axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0, label="mean ± spread")
        axes.plot(x, mean, color=BLUE, label="mean")
        axes.plot(x, best, color=VERMILION, linestyle="--", label="best")
        axes.legend()


def draw_compute_curves(file: Path, curves: Sequence[ComputeCurve], measure: str) -> None:
    """Draw a line for each search: a measure over device seconds."""
    with _axes(file, f"{measure} by device time", COMPUTE, measure) as axes:
        for curve, colour, line_style in zip(curves, cycle(SERIES), cycle(LINE_STYLES), strict=False):
            points = sample_evenly(curve.points, MAX_POINTS)
            axes.plot(
                [point.device_seconds for point in points],
                [point.value for point in points],
                color=colour,
                linestyle=line_style,
                label=curve.search,
                # Mark a single point, because a line needs two points to be visible.
                marker="o" if len(points) == 1 else None,
            )
        axes.legend()


def draw_front(
    file: Path,
    name: str,
    cost: str,
    tradeoffs: Sequence[Tradeoff],
    front: Sequence[Tradeoff],
    objective: Objective = DEFAULT_OBJECTIVE,
) -> None:
    """Draw scored candidates by their metric and cost (`mult_adds` or `params`), and the Pareto front as steps."""
    title = f"{objective.column[:1].upper()}{objective.column[1:]} and cost in {name}"
    with _axes(file, title, cost.replace("_", "-"), objective.label) as axes:
        axes.scatter(
            [getattr(candidate, cost) for candidate in tradeoffs],
            [candidate.accuracy for candidate in tradeoffs],
            s=12,
            color=GREY,
            label=f"{len(tradeoffs):,} scored candidates",
        )
        axes.step(
            [getattr(candidate, cost) for candidate in front],
            [candidate.accuracy for candidate in front],
            where="post",
            color=BLUE,
            marker="o",
            label="Pareto front",
        )
        axes.legend()


@contextmanager
def saved_figure(file: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty matplotlib figure, and save it at the end. Raises `ConflictError` for an unsupported suffix."""
    # Avoid pyplot, which would look for a display and keep every figure in memory.
    from matplotlib.figure import Figure

    check_image_suffix(file)
    figure = Figure(figsize=inches, dpi=120, layout="constrained")
    yield figure
    figure.savefig(file)


@contextmanager
def _axes(file: Path, title: str, x_label: str, y_label: str) -> Iterator[Axes]:
    with saved_figure(file, (8, 4.5)) as figure:
        axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label)
        axes.grid(visible=True, alpha=0.3)
        yield axes
