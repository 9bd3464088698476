"""The report of a search: one HTML page that contains everything, and that works without a network."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from eatnas_report import tables
from eatnas_report.data import ReportData
from eatnas_report.figures.lineage import lineage_figures
from eatnas_report.figures.objectives import objective_figures
from eatnas_report.figures.population import front_figures, primitive_figures, quality_figures
from eatnas_report.figures.predictions import prediction_figures
from eatnas_report.figures.training import failure_figures, utilisation_figures
from eatnas_report.templating import read_template, render_template


def render_page(data: ReportData) -> str:
    """Return the report as HTML."""
    plotly, script = get_plotlyjs(), read_template("report.js")
    return render_template(
        "report.html.jinja",
        data=data,
        overview=tables.overview(data),
        quality=quality_figures(data),
        front=front_figures(data),
        objectives=objective_figures(data),
        objective_front_table=tables.objective_front_table(data),
        top_table=tables.top_table(data),
        lineage=lineage_figures(data),
        lineage_table=tables.lineage_table(data),
        predictions=prediction_figures(data),
        primitives=primitive_figures(data),
        failures=failure_figures(data),
        failure_table=tables.failure_table(data),
        utilisation=utilisation_figures(data),
        time_table=tables.time_table(data),
        slot_time_table=tables.slot_time_table(data),
        spec_tables=tables.spec_tables(data),
        version_table=tables.version_table(data),
        script_digests=[_digest(plotly), _digest(script)],
        # Plotly and the files of this package are the only values that are not escaped.
        style=Markup(read_template("report.css")),  # noqa: S704
        plotly=Markup(plotly),  # noqa: S704
        script=Markup(script),  # noqa: S704
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
