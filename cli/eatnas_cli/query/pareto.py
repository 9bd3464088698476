"""`query pareto`: the candidates that are best at accuracy and cost together."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated, Final

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, PlotFile, SearchName
from eatnas_cli.printing import Format, Layout, show
from eatnas_cli.query.empty_answers import explain_empty, require_data
from eatnas_cli.query.page_options import page_options
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.pareto import Tradeoff, list_front, list_tradeoffs
from eatnas_db.queries.searches import get_search

app = new_app()

ACCURACY: Final = "accuracy"
"""The field of a `Tradeoff` with the metric that the search optimizes."""


class CostMetric(StrEnum):
    """Cost to trade off against the metric."""

    MULT_ADDS = "mult_adds"
    PARAMS = "params"


@app.command()
@takes_options(page=page_options, layout=layout_options)
def pareto(
    ctx: typer.Context,
    name: SearchName,
    *,
    cost: Annotated[CostMetric, typer.Option(help="Cost to trade off against the metric.")] = CostMetric.MULT_ADDS,
    picture: PlotFile = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """List the Pareto front: the candidates that no other beats in both the metric and the cost."""
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        objective = search.objective
        front = list_front(connection, search.id, cost.value, objective.direction)
        cloud = list_tradeoffs(connection, search.id) if picture is not None else ()
        rows = select_page(front, _with_column(page, objective.column), row_type=Tradeoff)
        empty = "" if rows else explain_empty(connection, search, "scored candidate", page)
    if picture is not None:
        from eatnas_report.plots import draw_front

        require_data(front, empty)
        draw_front(picture, name, cost.value, cloud, front, objective)
        typer.echo(f"wrote {picture}")
        return
    columns = ("id", "birth", objective.column, "fitness", "params", "mult_adds", "origin", "code")
    default = ("id", "birth", objective.column, cost.value, "origin", "code")
    records = [
        {objective.column if key == ACCURACY else key: value for key, value in asdict(row).items()} for row in rows
    ]
    show(records, columns, format, layout=layout, default=default, empty=empty)


def _with_column(page: Page, column: str) -> Page:
    """Return the page with the name of the field in place of the name of the shown column."""
    if column == ACCURACY:
        return page
    sort = page.sort
    if page.sort_column is not None and page.sort_column[0] == column:
        sort = "-" * page.sort_column[1] + ACCURACY
    named = re.compile(rf"\s*{re.escape(column)}(?=\s*[!<>=])")
    return replace(page, sort=sort, where=tuple(named.sub(ACCURACY, condition, count=1) for condition in page.where))
