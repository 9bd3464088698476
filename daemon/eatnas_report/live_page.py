"""Render the pages of the live server: whole pages as HTML, and their changing parts as HTML and plots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from markupsafe import Markup

from eatnas_db.queries.searches import SearchRecord
from eatnas_report import tables
from eatnas_report.data import ReportData, ReportPart
from eatnas_report.figures.figure import ReportFigure
from eatnas_report.parts import PARTS, fill_part, may_have_part
from eatnas_report.quality_preview import QualityPreview
from eatnas_report.reserved_space import reserve_space
from eatnas_report.tables import ReportTable
from eatnas_report.templating import read_template, render_template

NEEDS_ALSO: Final[Mapping[ReportPart, frozenset[ReportPart]]] = {
    ReportPart.PREDICTIONS: frozenset({ReportPart.LINEAGE}),
}
"""For each part, the other parts whose data its template shows too."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a page: its HTML, and a mapping from ids to the plots that the browser draws."""

    html: str
    plots: Mapping[str, Any]

    def to_json(self) -> str:
        """Return the fragment as JSON for the browser."""
        return json.dumps({"html": self.html, "plots": self.plots})


@dataclass(frozen=True, slots=True)
class SearchRow:
    """A search in the list of all searches."""

    name: str
    status: str
    settled: int
    budget: int
    best: float | None
    created_at: float

    @property
    def state(self) -> str:
        """The first word of the status. The style sheet has a class of this name."""
        return self.status.partition(":")[0].partition(" ")[0]


def render_list(searches: Fragment, activity: Fragment) -> str:
    """Return the page of all searches."""
    return render_live("live_list.html.jinja", title="Searches", searches=searches, activity=activity)


def render_search(
    search: SearchRecord, overview: Fragment, activity: Fragment, preview: QualityPreview | None = None
) -> str:
    """Return the page of one search. The browser requests the other parts of the report when they come into view."""
    parts = [
        (part, content.title, reserve_space(part, search))
        for part, content in PARTS.items()
        if part is not ReportPart.OVERVIEW and may_have_part(part, search)
    ]
    return render_live(
        "live_search.html.jinja",
        title=search.name,
        search=search.name,
        overview=overview,
        activity=activity,
        parts=parts,
        preview=preview,
    )


def render_error(title: str, message: str, *, asks_token: bool) -> str:
    """Return the page of an error, with a field for the token if `asks_token` is true."""
    return _render("live_error.html.jinja", title=title, message=message, asks_token=asks_token)


def render_api(description: Mapping[str, Any]) -> str:
    """Return the page that lists the paths of the API with their parameters; `description` is its OpenAPI schema."""
    operations = [(path, methods["get"]) for path, methods in description["paths"].items()]
    return _render("live_api.html.jinja", title="Queries as JSON", operations=operations)


def searches_fragment(rows: Sequence[SearchRow]) -> Fragment:
    """Return the list of searches, the newest first."""
    return Fragment(render_template("live_searches.html.jinja", rows=rows[::-1]), {})


def activity_fragment(slots: ReportTable, waits: Sequence[str], idle: str) -> Fragment:
    """Return the table of slots and the reasons why searches wait; without slots, `idle` replaces the table."""
    return Fragment(render_template("live_activity.html.jinja", slots=slots, waits=waits, idle=idle), {})


def part_fragment(part: ReportPart, data: ReportData) -> Fragment:
    """Return a part of the report of a search, or an empty fragment if this kind of search does not have the part."""
    filled = fill_part(part, data)
    if filled is None:
        return Fragment("", {})
    values = dict(filled.values)
    if part is ReportPart.OVERVIEW:  # computing the fingerprint would read the whole search
        values["overview"] = tables.overview(data, shows_fingerprint=False)
    figures = [figure for value in values.values() if isinstance(value, list) for figure in value]
    plots = {figure.id: json.loads(figure.plot.to_json()) for figure in figures if isinstance(figure, ReportFigure)}
    values |= {"data": data, "embeds_figures": False, "reserved": reserve_space(part, data.search)}
    return Fragment(render_template(filled.template, **values), plots)


@cache
def script_files() -> Mapping[str, str]:
    """Return the scripts of the pages by their file names, which change with the content."""
    from plotly.offline import get_plotlyjs

    texts = {"plotly": get_plotlyjs(), "live": read_template("live.js")}
    return {f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.js": text for name, text in texts.items()}


def render_live(template: str, **values: Any) -> str:
    """Return a page with the scripts that refresh it."""
    return _render(template, **values, **{name.partition("-")[0]: name for name in script_files()})


def _render(template: str, **values: Any) -> str:
    style = read_template("report.css") + read_template("live.css")
    # The style sheets need no escaping, because they are files of this package.
    return render_template(template, style=Markup(style), **values)  # noqa: S704
