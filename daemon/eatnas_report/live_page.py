"""The pages of the live server, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from eatnas_report.templating import read_template, render_template


def render_error(title: str, message: str, *, asks_token: bool) -> str:
    """Return the page of an error; with a field for the token if one is needed."""
    return _render("live_error.html.jinja", title=title, message=message, asks_token=asks_token)


def render_api(description: Mapping[str, Any]) -> str:
    """Return the page that lists the paths of the API with their parameters, from its description as OpenAPI."""
    operations = [(path, methods["get"]) for path, methods in description["paths"].items()]
    return _render("live_api.html.jinja", title="The JSON of the queries", operations=operations)


def _render(template: str, **values: Any) -> str:
    style = read_template("report.css") + read_template("live.css")
    # The style sheets are files of this package.
    return render_template(template, style=Markup(style), **values)  # noqa: S704
