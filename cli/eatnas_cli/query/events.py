"""`query events`: the events of a search, or of all searches."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import MAX_ROWS, FormatOption
from eatnas_cli.printing import Format, Layout, show
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.candidate_ids import require_candidate
from eatnas_db.queries.event_messages import require_event_kind
from eatnas_db.queries.events import list_events
from eatnas_db.queries.searches import get_search

app = new_app()


@app.command()
@takes_options(layout=layout_options)
def events(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a search. Default: all searches.")] = None,
    candidate: Annotated[int | None, typer.Option(help="Id of a candidate; show only its events.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Kind of the events to show, such as `failed`. The error message for an unknown kind lists all kinds."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Maximum number of events to show.")] = 50,
    offset: Annotated[int, typer.Option(min=0, max=MAX_ROWS, help="Number of the newest events to skip.")] = 0,
    *,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """List the latest events, the newest last."""
    if kind is not None:
        require_event_kind(kind)
    with read_connection(ctx.obj.database_url) as connection:
        if candidate is not None:
            require_candidate(connection, candidate)
        search_id = None if name is None else get_search(connection, name).id
        rows = list_events(connection, search_id, limit=limit, candidate_id=candidate, kind=kind, offset=offset)
    if format is Format.TABLE:
        lines = [{**asdict(row), "candidate": row.candidate_id, "what happened": row.words} for row in rows]
        default = ("at", *(() if name else ("search",)), "candidate", "birth", "what happened")
        empty = f"no event{_describe_selection(name, candidate, kind, offset)}"
        show(lines, (*default, "id", "kind", "attempt"), layout=layout, default=default, empty=empty)
    else:
        show(rows, ("id", "at", "kind", "search", "candidate_id", "birth", "attempt", "words"), format, layout=layout)


def _describe_selection(name: str | None, candidate: int | None, kind: str | None, offset: int) -> str:
    parts = {"of search": name, "of candidate": candidate, "of kind": kind, "before the newest": offset or None}
    return "".join(f" {words} {value}" for words, value in parts.items() if value is not None)
