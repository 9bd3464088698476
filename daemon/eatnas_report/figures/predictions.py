"""The figure of the predictions for guided births: predicted and measured fitness."""

from __future__ import annotations

from typing import Final

from eatnas_db.queries.calibration import EXPECTED_SHARE
from eatnas_report.data import ReportData
from eatnas_report.figures.figure import ReportFigure, describe_sample, new_plot
from eatnas_report.palette import BLUE, GREY
from eatnas_report.sampling import sample_evenly

MAX_PREDICTIONS: Final = 1000


def prediction_figures(data: ReportData) -> list[ReportFigure]:
    """Plot the fitness of guided births against their predicted fitness.

    Return no figure if no guided birth has a score.
    """
    scored = [row for row in data.predictions if row.fitness is not None]
    if not scored:
        return []
    shown = sample_evenly(scored, MAX_PREDICTIONS)
    plot = new_plot("predicted fitness", "fitness")
    values = [value for row in shown for value in (row.predicted, row.fitness) if value is not None]
    ends = [min(values), max(values)]
    plot.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dash"}, name="equal")
    plot.add_scatter(
        x=[row.predicted for row in shown],
        y=[row.fitness for row in shown],
        error_x={
            "symmetric": False,
            "array": [row.high - row.predicted for row in shown],
            "arrayminus": [row.predicted - row.low for row in shown],
            "thickness": 0.7,
        },
        mode="markers",
        marker={"color": BLUE, "size": 6},
        name="guided births",
        text=[f"candidate {row.id}, birth {row.birth}" for row in shown],
    )
    assert data.calibration is not None
    share = data.calibration.share_within or 0.0
    sample = describe_sample(len(shown), len(scored), "guided births")
    caption = (
        "Predicted and measured fitness of the births that the model proposed. The bars show one standard deviation: "
        f"{share:.0%} of the measured values lie within the bars ({EXPECTED_SHARE:.0%} with a perfectly calibrated "
        f"model). {sample}"
    )
    return [ReportFigure(id="predictions", plot=plot, caption=caption.strip())]
