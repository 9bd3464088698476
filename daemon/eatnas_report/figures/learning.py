"""The figures of the learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from operator import attrgetter
from typing import Any, Final

from eatnas_db.domain.objective import Objective
from eatnas_db.queries.learning_curves import LearningCurve, LearningPoint
from eatnas_report.data import ReportData
from eatnas_report.figures.figure import MAX_MARKED_POINTS, ReportFigure, new_plot
from eatnas_report.palette import SERIES

DASHES: Final = ("solid", "dash", "dot", "dashdot")
Value = Callable[[LearningPoint], float | None]
_METRIC: Final[Value] = attrgetter("metric")
_LOSSES: Final[tuple[tuple[str, str, Value], ...]] = (
    ("train-loss", "training loss", attrgetter("train_loss")),
    ("val-loss", "validation loss", attrgetter("val_loss")),
)


def learning_figures(data: ReportData) -> list[ReportFigure]:
    """Draw the metric and the losses of the best candidates over their epochs.

    Return no figure before the first epoch.
    """
    in_training = any(curve.in_training for curve in data.curves)
    which = "the best candidates" + (" and of candidates in training" if in_training else "")
    return draw_learning_curves(data.curves, data.search.objective, which)


def draw_learning_curves(curves: Sequence[LearningCurve], objective: Objective, which: str) -> list[ReportFigure]:
    """Draw the metric and the losses of candidates over their epochs; `which` names the candidates in the captions."""
    figures = []
    for name, title, value in (("metric", objective.label, _METRIC), *_LOSSES):
        measured = [curve for curve in curves if any(value(point) is not None for point in curve.points)]
        # If the loss is also the metric, draw it once.
        if measured and not (name == "val-loss" and objective.metric == "val_loss"):
            caption = f"{title[0].upper()}{title[1:]} of {which}, by number of epochs."
            plot = _plot_curves(measured, title, value)
            figures.append(ReportFigure(f"curves-{name}", plot, caption, half_width=True))
    return figures


def _plot_curves(curves: Sequence[LearningCurve], title: str, value: Value) -> Any:
    plot = new_plot("epochs", title)
    styles = cycle((colour, dash) for dash in DASHES for colour in SERIES)
    for curve, (colour, dash) in zip(curves, styles, strict=False):
        points = [point for point in curve.points if value(point) is not None]
        plot.add_scatter(
            x=[point.epochs for point in points],
            y=[value(point) for point in points],
            name=f"{curve.candidate_id}{' (in training)' if curve.in_training else ''}",
            mode="lines+markers" if len(points) <= MAX_MARKED_POINTS else "lines",
            line={"color": colour, "dash": dash},
            marker={"size": 4},
            hovertemplate=f"{curve.candidate_id}, birth {curve.birth}<br>%{{x}} epochs: %{{y:.4f}}<extra></extra>",
        )
    plot.update_layout(showlegend=True)
    plot.update_xaxes(rangemode="tozero", **({"dtick": 1} if max(c.points[-1].epochs for c in curves) <= 10 else {}))
    return plot
