"""`query utilisation`: the device seconds and the idle time of a search."""

from __future__ import annotations

import time
from dataclasses import replace

import typer

from eatnas_cli.layout_options import width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import Format, Layout, show, show_one
from eatnas_cli.query.page_options import page_options
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.searches import get_search
from eatnas_db.queries.utilisation import IdleTime, get_utilisation

app = new_app()


@app.command()
@takes_options(page=page_options, layout=width_options)
def utilisation(
    ctx: typer.Context,
    name: SearchName,
    *,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Show the device seconds of a search, the utilisation of its slots, and why slots were idle.

    --limit, --offset, --sort and --where select rows of the list of reasons for idle slots.
    """
    with read_connection(ctx.obj.database_url) as connection:
        row = get_utilisation(connection, get_search(connection, name).id, time.time())
    idle = select_page(row.idle, page, row_type=IdleTime)
    if format is Format.CSV:
        show(idle, ("host", "slot", "device", "cause", "seconds", "share"), format, layout=layout)
    else:
        show_one(replace(row, idle=tuple(idle)), format, layout=layout)
