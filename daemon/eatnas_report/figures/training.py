"""Figures of the training: failed attempts, and the utilisation of slots."""

from __future__ import annotations

from collections import Counter
from typing import Final

from eatnas_db.domain.states import CandidateState
from eatnas_report.data import ReportData
from eatnas_report.figures.figure import ReportFigure, describe_sample, escape_markup, new_plot
from eatnas_report.palette import BLACK, BLUE, SKY_BLUE, VERMILION
from eatnas_report.sampling import sample_evenly

MAX_SLOTS: Final = 64
_OUTLINE: Final = {"color": BLACK, "width": 1}


def failure_figures(data: ReportData) -> list[ReportFigure]:
    """Draw the number of attempts that ended without a score, by kind of failure.

    Return no figure if there are no such attempts.
    """
    if not data.failures:
        return []
    counts = Counter((failure.failure, failure.state == CandidateState.FAILED) for failure in data.failures)
    kinds = [kind for kind, _ in Counter(failure.failure for failure in data.failures).most_common()][::-1]
    plot = new_plot("attempts", "")
    for candidate_failed, name, colour, pattern in (
        (False, "candidate continued", BLUE, ""),
        (True, "candidate failed", VERMILION, "/"),
    ):
        plot.add_bar(
            orientation="h",
            y=[escape_markup(kind) for kind in kinds],
            x=[counts[kind, candidate_failed] for kind in kinds],
            name=name,
            marker={"color": colour, "line": _OUTLINE, "pattern": {"shape": pattern}},
            hovertemplate="%{y}: %{x}",
        )
    plot.update_layout(barmode="stack", bargap=0.4, height=150 + 34 * len(kinds))
    plot.update_yaxes(type="category")
    return [ReportFigure("failures", plot, "Attempts that ended without a score, by kind of failure.")]


def utilisation_figures(data: ReportData) -> list[ReportFigure]:
    """Draw for each slot the share of time that it spent on the search. Return no figure before the first attempt."""
    if data.utilisation is None or not data.utilisation.slots:
        return []
    slots = sample_evenly(data.utilisation.slots, MAX_SLOTS)[::-1]
    plot = new_plot("share of the search's wall time", "")
    plot.add_bar(
        orientation="h",
        # Name the device too, because a slot may have moved to another device.
        y=[escape_markup(f"{slot.host} slot {slot.slot}, {slot.device}") for slot in slots],
        x=[slot.busy for slot in slots],
        text=[f"{slot.busy:.0%}" for slot in slots],
        textposition="auto",
        marker={"color": SKY_BLUE, "line": _OUTLINE},
        hovertext=[f"{slot.attempts} attempts, {slot.device_seconds:,.0f} device seconds" for slot in slots],
        hoverinfo="text",
    )
    plot.update_layout(bargap=0.4, height=130 + 34 * len(slots))
    plot.update_xaxes(range=[0, 1], tickformat=".0%")
    plot.update_yaxes(type="category")
    caption = "Share of the wall time during which each slot had a candidate of this search."
    sample = describe_sample(len(slots), len(data.utilisation.slots), "slots")
    return [ReportFigure("utilisation", plot, f"{caption} {sample}".strip())]
