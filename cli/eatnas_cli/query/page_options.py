"""The options that select the rows of an answer."""

from __future__ import annotations

from typing import Annotated

import typer

from eatnas_cli.options import MAX_ROWS
from eatnas_db.queries.paging import Page

Limit = Annotated[
    int | None, typer.Option("--limit", min=1, max=MAX_ROWS, help="Maximum number of rows. Default: all.")
]
Offset = Annotated[int, typer.Option("--offset", min=0, max=MAX_ROWS, help="Number of rows to skip.")]
SortColumn = Annotated[
    str | None,
    typer.Option("--sort", metavar="COLUMN", help="Column to sort by; -COLUMN sorts in descending order."),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Condition that rows must meet: COLUMN, an operator (=, !=, <, <=, >, >=) and a value. `COLUMN=` selects "
        "the rows in which COLUMN has no value. Repeatable.",
    ),
]


def page_options(limit: Limit = None, offset: Offset = 0, sort: SortColumn = None, where: Conditions = None) -> Page:
    """Return the selection and the order of the rows to show."""
    return Page(limit=limit, offset=offset, sort=sort, where=tuple(where or ()))


def describe_conditions(page: Page) -> str:
    """Return the options that can leave out rows as the end of a sentence, or an empty string without any."""
    options = [f"--where {condition}" for condition in page.where]
    options += [f"--offset {page.offset}"] if page.offset else []
    return f" with {' '.join(options)}" if options else ""
