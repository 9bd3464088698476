"""`query pareto`: the candidates that are best at accuracy and cost together."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

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


class CostMetric(StrEnum):
    """Cost to trade off against accuracy."""

    MULT_ADDS = "mult_adds"
    PARAMS = "params"


@app.command()
@takes_options(page=page_options, layout=layout_options)
def pareto(
    ctx: typer.Context,
    name: SearchName,
    *,
    cost: Annotated[CostMetric, typer.Option(help="Cost to trade off against accuracy.")] = CostMetric.MULT_ADDS,
    picture: PlotFile = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """List the Pareto front: the candidates that no other beats in both accuracy and cost."""
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        front = list_front(connection, search.id, cost.value)
        cloud = list_tradeoffs(connection, search.id) if picture is not None else ()
        rows = select_page(front, page, row_type=Tradeoff)
        empty = "" if rows else explain_empty(connection, search, "scored candidate", page)
    if picture is not None:
        from eatnas_report.plots import draw_front

        require_data(front, empty)
        draw_front(picture, name, cost.value, cloud, front)
        typer.echo(f"wrote {picture}")
        return
    columns = ("id", "birth", "accuracy", "fitness", "params", "mult_adds", "origin", "code")
    default = ("id", "birth", "accuracy", cost.value, "origin", "code")
    show(rows, columns, format, layout=layout, default=default, empty=empty)
