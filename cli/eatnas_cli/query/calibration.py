"""`query calibration`: compare the predictions for guided births with the measured results."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from sqlalchemy import Connection

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import Format, Layout, show
from eatnas_cli.query.empty_answers import explain_empty
from eatnas_cli.query.page_options import page_options
from eatnas_cli.sentences import print_sentence
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.calibration import (
    EXPECTED_SHARE,
    Calibration,
    get_calibration,
    list_predictions,
)
from eatnas_db.queries.paging import Page
from eatnas_db.queries.predictions import list_source_names
from eatnas_db.queries.searches import SearchRecord, get_search

app = new_app()


@app.command()
@takes_options(page=page_options, layout=layout_options)
def calibration(
    ctx: typer.Context,
    name: SearchName,
    *,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Compare the fitness that the model predicted for guided births with the fitness that they reached."""
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        rows = list_predictions(connection, search.id, page)
        summary = get_calibration(connection, search.id)
        sources = list_source_names(connection, search.id)
        empty = "" if rows else _explain_empty(connection, search, page)
    measured = ("id", "birth", "origin", "low", "predicted", "high", "fitness", "within", "scores", "agreement")
    model = ("improvement", "margin", "mean", "deviation", "model_births", "kernel", "noise", "slopes")
    default = ("id", "birth", "low", "predicted", "high", "fitness", "within", "scores", "agreement")
    shown = (*default, "slopes") if sources else default
    show(rows, (*measured, *model), format, layout=layout, default=shown, empty=empty)
    if format is Format.TABLE and rows:
        print_sentence(_describe(summary, sources), error=True)


def _describe(summary: Calibration, sources: Sequence[str]) -> str:
    """Return the summary as a sentence; `sources` are the names of the sources in the order of the slopes."""
    slopes = f"; the slopes belong to the sources {', '.join(sources)}" if sources else ""
    if not summary.scored:
        return f"no predicted birth has a fitness yet (predicted births: {summary.predicted}){slopes}"
    correlation = "" if summary.correlation is None else f"; correlation {summary.correlation:.2f}"
    return (
        f"{summary.share_within:.0%} of {summary.scored} fitness values lie between low and high "
        f"({EXPECTED_SHARE:.0%} with a perfectly calibrated model); "
        f"mean error {summary.mean_error:.4f}{correlation}{slopes}"
    )


def _explain_empty(connection: Connection, search: SearchRecord, page: Page) -> str:
    if search.spec["evolution"].get("births") == "guided":
        return explain_empty(connection, search, "predicted birth", page)
    return f"search {search.name!r} has no predictions: it was created without `evolution.births: guided`"
