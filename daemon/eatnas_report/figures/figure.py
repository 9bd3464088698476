"""The common parts of all figures of a report. Plotly draws the figures in the reader's browser."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Final

import plotly.graph_objects as go
from markupsafe import Markup

FIGURE_HEIGHT: Final = 380
"""The height of most figures in pixels."""
MAX_MARKED_POINTS: Final = 40
"""A line with more points than this has no markers, since the markers would overlap."""


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A plot with its caption; two figures with `half_width` fit side by side."""

    id: str
    plot: go.Figure
    caption: str
    half_width: bool = False

    @property
    def height(self) -> int:
        """The height in pixels."""
        return int(self.plot.layout.height)

    @property
    def json(self) -> Markup:
        """The plot as JSON for a script element. It contains no `<`, which a browser could read as markup."""
        return Markup(str(self.plot.to_json()).replace("<", "\\u003c"))  # noqa: S704


def new_plot(x_title: str, y_title: str) -> go.Figure:
    """Return an empty plot in the style of the report."""
    axis = {"automargin": True, "gridcolor": "#dddddd", "linecolor": "#000000", "ticks": "outside", "zeroline": False}
    plot = go.Figure()
    plot.update_layout(
        template="none",
        height=FIGURE_HEIGHT,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": "#000000"}},
        xaxis={**axis, "title": {"text": x_title}},
        yaxis={**axis, "title": {"text": y_title}},
    )
    return plot


def describe_sample(shown: int, total: int, noun: str) -> str:
    """Return a sentence for the caption if a figure shows only a sample, otherwise an empty string."""
    return f"The figure shows an even sample of {shown:,} of {total:,} {noun}." if shown < total else ""


def escape_markup(text: str) -> str:
    """Escape text that Plotly would read as markup."""
    return escape(text, quote=False)
