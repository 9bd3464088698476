"""Render the report of a search: one self-contained HTML page, which needs no internet connection."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from eatnas_report.data import ReportData
from eatnas_report.parts import PARTS, fill_part
from eatnas_report.templating import read_template, render_template


def render_page(data: ReportData) -> str:
    """Return the report as HTML."""
    plotly, script = get_plotlyjs(), read_template("report.js")
    parts = [filled for part in PARTS if (filled := fill_part(part, data)) is not None]
    return render_template(
        "report.html.jinja",
        **{name: value for filled in parts for name, value in filled.values.items()},
        data=data,
        parts=parts,
        embeds_figures=True,
        reserved=None,
        script_digests=[_digest(plotly), _digest(script)],
        # Only Plotly and the files of this package are inserted without escaping.
        style=Markup(read_template("report.css")),  # noqa: S704
        plotly=Markup(plotly),  # noqa: S704
        script=Markup(script),  # noqa: S704
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
