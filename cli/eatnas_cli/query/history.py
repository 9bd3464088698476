"""`query events`, `failures`, `utilisation` and `fingerprint`: the history of a search."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Annotated

import typer

from eatnas_cli.layout_options import layout_options, width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import MAX_ROWS, FormatOption, SearchName
from eatnas_cli.printing import Format, Layout, show, show_one
from eatnas_cli.query.page_options import page_options
from eatnas_cli.sentences import print_note
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.candidates import require_candidate
from eatnas_db.queries.event_messages import require_event_kind
from eatnas_db.queries.events import list_events
from eatnas_db.queries.failures import list_failures
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.searches import get_search
from eatnas_db.queries.utilisation import IdleTime, get_utilisation
from eatnas_db.settings import Settings

app = new_app()


@app.command()
@takes_options(layout=layout_options)
def events(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of a search. Default: all searches.")
    ] = None,
    candidate: Annotated[int | None, typer.Option(help="Id of a candidate; show only its events.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Kind of the events to show, such as `failed`. An unknown kind is an error that lists all kinds."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of events to show, the newest ones.")] = 50,
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
        asked = f" with {' '.join(f'--where {condition}' for condition in page.where)}" if page.where else ""
        empty = f"search {name!r} has no failed or lost attempt{asked}"
    columns = ("candidate_id", "birth", "attempt", "state", "failure", "message", "ended_at")
    show(rows, columns, format, layout=layout, empty=empty)


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

    --limit, --offset, --sort and --where select rows of the list of reasons.
    """
    with read_connection(ctx.obj.database_url) as connection:
        row = get_utilisation(connection, get_search(connection, name).id, time.time())
    idle = select_page(row.idle, page, row_type=IdleTime)
    if format is Format.CSV:
        show(idle, ("host", "slot", "device", "cause", "seconds", "share"), format, layout=layout)
    else:
        show_one(replace(row, idle=tuple(idle)), format, layout=layout)


@app.command()
def fingerprint(ctx: typer.Context, name: SearchName, format: FormatOption = Format.TABLE) -> None:  # noqa: A002
    """Print the fingerprint of a search, which is equal for equal histories on all machines."""
    print_fingerprint(ctx.obj, name, format)


def print_fingerprint(settings: Settings, name: str, format: Format = Format.TABLE) -> None:  # noqa: A002
    """Print the fingerprint of a search. Raises `NotFoundError`."""
    with read_connection(settings.database_url) as connection:
        search = get_search(connection, name)
        row = get_fingerprint(connection, search.id)
    if search.machine_dependence is not None:
        print_note(f"{name} is machine-dependent: {search.machine_dependence}")
    if format is Format.TABLE:
        typer.echo(row.sha256)
    else:
        show([row], ("sha256", "candidates"), format)
