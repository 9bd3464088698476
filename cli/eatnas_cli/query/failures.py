"""`query failures`: the failed and lost attempts of a search."""

from __future__ import annotations

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import Format, Layout, show
from eatnas_cli.query.page_options import describe_conditions, page_options
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.failures import list_failures
from eatnas_db.queries.paging import Page
from eatnas_db.queries.searches import get_search

app = new_app()


@app.command()
@takes_options(page=page_options, layout=layout_options)
def failures(
    ctx: typer.Context,
    name: SearchName,
    *,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """List failed and lost attempts with their reasons."""
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        rows = list_failures(connection, search.id, page)
    empty = f"search {name!r} has no failed or lost attempt{describe_conditions(page)}"
    columns = ("candidate_id", "birth", "attempt", "state", "failure", "message", "ended_at")
    show(rows, columns, format, layout=layout, empty=empty)
