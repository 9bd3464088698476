"""`query …` and `candidate …`: questions to the record, answered from SQL."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eatnas_cli.printing import Format, lineage_tree, show, show_one
from eatnas_cli.record import SearchName as Name
from eatnas_cli.record import Written, changing, viewing
from eatnas_db.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from sqlalchemy import Connection

query_app = typer.Typer(help="Ask the record.", no_args_is_help=True)
candidate_app = typer.Typer(help="Look at one candidate, or change what becomes of it.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(help="Number of a candidate, as `query best` lists it.")]


@query_app.command()
def best(
    ctx: typer.Context,
    name: Name,
    top: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many.")] = 10,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """The fittest candidates of a search."""
    from eatnas_db.queries.best import list_best

    with viewing(ctx.obj) as connection:
        rows = list_best(connection, _search_id(connection, name), top)
    show(rows, ("id", "birth", "fitness", "params", "mult_adds", "origin", "parent_birth", "code"), format)


@query_app.command()
def lineage(
    ctx: typer.Context,
    name_or_id: Annotated[str, typer.Argument(help="A candidate's number, or a search's name for its best.")],
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Where a candidate comes from: every mutation from its root on."""
    from eatnas_db.queries.lineage import get_lineage

    with viewing(ctx.obj) as connection:
        rows = get_lineage(connection, _candidate_id(connection, name_or_id))
    _show_family(rows, format)


@query_app.command()
def descendants(ctx: typer.Context, candidate: Id, format: Written = Format.TABLE) -> None:  # noqa: A002
    """What came of a candidate: its children, theirs, and so on."""
    from eatnas_db.queries.lineage import list_descendants

    with viewing(ctx.obj) as connection:
        rows = list_descendants(connection, candidate)
    _show_family(rows, format)


@query_app.command()
def population(
    ctx: typer.Context,
    name: Name,
    at: Annotated[int | None, typer.Option(min=0, help="After this step; default: now.")] = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Who lives in the population, now or after any step."""
    from eatnas_db.queries.population import list_population

    with viewing(ctx.obj) as connection:
        rows = list_population(connection, _search_id(connection, name), at)
    show(rows, ("id", "birth", "joined", "left", "fitness", "params", "mult_adds", "origin", "code"), format)


@query_app.command()
def quality(ctx: typer.Context, name: Name, format: Written = Format.TABLE) -> None:  # noqa: A002
    """How good the population was after each step."""
    from eatnas_db.queries.quality import list_steps

    with viewing(ctx.obj) as connection:
        rows = list_steps(connection, _search_id(connection, name))
    show(rows, ("number", "size", "mean", "spread", "best", "quality", "at"), format)


@query_app.command()
def events(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of a search; default: all.")] = None,
    candidate: Annotated[int | None, typer.Option(help="The story of this candidate alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many, counted from the newest.")] = 50,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """What happened lately, the newest last."""
    from eatnas_db.queries.candidates import require_candidate
    from eatnas_db.queries.events import list_events

    with viewing(ctx.obj) as connection:
        if candidate is not None:
            require_candidate(connection, candidate)
        search_id = None if name is None else _search_id(connection, name)
        rows = list_events(connection, search_id, limit, candidate_id=candidate)
    if format is Format.TABLE:
        told = [{**asdict(row), "candidate": row.candidate_id, "what happened": row.words} for row in rows]
        show(told, ("at", *(() if name else ("search",)), "candidate", "birth", "what happened"))
    else:
        show(rows, ("id", "at", "kind", "search", "candidate_id", "birth", "attempt", "words"), format)


@query_app.command()
def failures(ctx: typer.Context, name: Name, format: Written = Format.TABLE) -> None:  # noqa: A002
    """Which attempts failed or were lost, and why."""
    from eatnas_db.queries.failures import list_failures

    with viewing(ctx.obj) as connection:
        rows = list_failures(connection, _search_id(connection, name))
    show(rows, ("candidate_id", "birth", "attempt", "state", "failure", "message", "ended_at"), format)


@query_app.command()
def fingerprint(ctx: typer.Context, name: Name, format: Written = Format.TABLE) -> None:  # noqa: A002
    """One line that is equal for equal histories, whenever and wherever they ran."""
    from eatnas_db.queries.fingerprint import get_fingerprint

    with viewing(ctx.obj) as connection:
        answer = get_fingerprint(connection, _search_id(connection, name))
    if format is Format.TABLE:
        typer.echo(answer.sha256)
    else:
        show([answer], ("sha256", "candidates"), format)


@candidate_app.command("show")
def show_candidate(ctx: typer.Context, candidate: Id, format: Written = Format.TABLE) -> None:  # noqa: A002
    """Everything that is known of a candidate."""
    from eatnas_db.queries.candidates import get_candidate

    with viewing(ctx.obj) as connection:
        row = get_candidate(connection, candidate)
    show_one(row, format)


@candidate_app.command()
def logs(ctx: typer.Context, candidate: Id) -> None:
    """What a candidate's trainings wrote on this machine."""
    from eatnas_db.queries.candidates import require_candidate

    with viewing(ctx.obj) as connection:
        require_candidate(connection, candidate)
    file = ctx.obj.logs / f"candidate-{candidate}.log"
    if not file.is_file():
        raise NotFoundError(f"candidate {candidate} has no log at {file}: it has not been trained in this home")
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            typer.echo(line, nl=False)


@candidate_app.command()
def retry(ctx: typer.Context, candidate: Id) -> None:
    """Train a failed candidate again, its failures forgiven."""
    _change(ctx, candidate, "retry")
    typer.echo(f"candidate {candidate} is pending again")


@candidate_app.command()
def cancel(ctx: typer.Context, candidate: Id) -> None:
    """Give up a candidate that waits or trains."""
    _change(ctx, candidate, "cancel")
    typer.echo(f"candidate {candidate} is cancelled")


def _change(ctx: typer.Context, candidate: int, transition: str) -> None:
    import time

    from eatnas_db import transitions
    from eatnas_db.queries.candidates import require_candidate

    change = {"retry": transitions.retry, "cancel": transitions.cancel}[transition]
    with changing(ctx.obj) as connection:
        require_candidate(connection, candidate)
        change(connection, candidate, time.time())


def _search_id(connection: Connection, name: str) -> int:
    from eatnas_db.queries.searches import get_search

    return get_search(connection, name).id


def _candidate_id(connection: Connection, name_or_id: str) -> int:
    from eatnas_db.queries.best import list_best

    # Digits mean a candidate even where a search is called so; int() refuses thousands of them.
    if name_or_id.isascii() and name_or_id.isdigit() and len(name_or_id) < 20:
        return int(name_or_id)
    found = list_best(connection, _search_id(connection, name_or_id), 1)
    if not found:
        raise ConflictError(f"search {name_or_id!r} has no scored candidate yet")
    return found[0].id


def _show_family(rows: Any, format: Format) -> None:  # noqa: A002
    if format is Format.TABLE:
        lineage_tree(rows)
    else:
        columns = ("id", "parent_id", "generation", "birth", "origin", "state", "fitness", "gain", "changes", "code")
        show(rows, columns, format)
