"""`search list`: print a line for each search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show
from eatnas_cli.sentences import print_sentence
from eatnas_daemon.search_status import current_status, is_supervised
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.searches import SearchSummary, list_search_summaries

app = new_app()


@app.command("list")
@takes_options(layout=layout_options)
def list_searches(
    ctx: typer.Context,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """List all searches, the newest last."""
    with read_connection(ctx.obj.database_url) as connection:
        rows, supervised = list_search_summaries(connection), is_supervised(ctx.obj, connection)
    print_summaries(rows, supervised, format, layout)


def print_summaries(
    rows: Sequence[SearchSummary],
    supervised: bool,
    format: Format,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Print a line for each search: its status, the number of its settled candidates, and its best fitness."""
    lines = [{**asdict(row), "status": current_status(row, supervised)} for row in rows]
    if format is not Format.TABLE:
        show(lines, ("name", "status", "settled", "budget", "best", "created_at"), format, layout=layout)
    elif not rows:
        print_sentence("no searches yet; `eatnas-db search create SPEC.yaml` creates one")
    else:
        for line in lines:
            line["settled"] = f"{line['settled']}/{line['budget']}"
        show(lines, ("name", "status", "settled", "best", "created_at"), layout=layout)
