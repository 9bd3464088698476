"""`query sql`: run the user's own SELECT statement."""

from __future__ import annotations

from typing import Annotated

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import Format, Layout, show
from eatnas_cli.sentences import print_sentence
from eatnas_db.adhoc_sql import run_query

app = new_app()


@app.command()
@takes_options(layout=layout_options)
def sql(
    ctx: typer.Context,
    question: Annotated[
        str,
        typer.Argument(
            metavar="SELECT",
            help="A SELECT statement. The page `Querying the record` of the documentation lists the views.",
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Maximum number of rows.")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.001, max=86400, help="Time limit in seconds.")] = 30.0,
    *,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Run a SELECT statement; it cannot change anything."""
    answer = run_query(ctx.obj, question, limit=limit, seconds=timeout)
    # Columns of the same name get a number, because JSON objects have unique keys.
    columns = [name if name not in answer.columns[:at] else f"{name}_{at}" for at, name in enumerate(answer.columns)]
    rows = [dict(zip(columns, row, strict=True)) for row in answer.rows]
    show(rows, columns, format, layout=layout, empty="the query returned no rows")
    if answer.truncated:
        print_sentence(f"showing the first {limit} rows; use --limit to show more", error=True)
