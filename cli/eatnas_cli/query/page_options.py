"""The options that select the rows of an answer."""

from __future__ import annotations

from typing import Annotated

import typer

from eatnas_db.queries.paging import Page

Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Show so many at most.")]
Offset = Annotated[int, typer.Option("--offset", min=0, help="Leave out so many first.")]
SortColumn = Annotated[
    str | None, typer.Option("--sort", metavar="COLUMN", help="Order by a column; -COLUMN: the largest first.")
]
Conditions = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="CONDITION", help="COLUMN and =, !=, <, <=, > or >= and a value; may be repeated."),
]


def page_options(limit: Limit = None, offset: Offset = 0, sort: SortColumn = None, where: Conditions = None) -> Page:
    """Return the rows to show and their order."""
    return Page(limit=limit, offset=offset, sort=sort, where=tuple(where or ()))
