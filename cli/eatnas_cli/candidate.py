"""`candidate …`: show, retry and cancel one candidate."""

from __future__ import annotations

import time
from collections.abc import Callable

import typer
from sqlalchemy import Connection

from eatnas_cli.layout_options import width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import CandidateId, FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show_one
from eatnas_db import transitions
from eatnas_db.database.engine import read_connection, write_connection
from eatnas_db.errors import NotFoundError
from eatnas_db.queries.candidates import get_candidate, require_candidate
from eatnas_db.searches.retry import retry_candidates
from eatnas_db.settings import Settings

app = new_app(no_args_is_help=True)


@app.command("show")
@takes_options(layout=width_options)
def show_candidate(
    ctx: typer.Context,
    candidate: CandidateId,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Show all data about a candidate."""
    with read_connection(ctx.obj.database_url) as connection:
        row = get_candidate(connection, candidate)
    show_one(row, format, layout=layout)


@app.command()
def logs(ctx: typer.Context, candidate: CandidateId) -> None:
    """Print the log of a candidate's trainings on this machine."""
    with read_connection(ctx.obj.database_url) as connection:
        require_candidate(connection, candidate)
    file = ctx.obj.logs / f"candidate-{candidate}.log"
    if not file.is_file():
        raise NotFoundError(f"no log of candidate {candidate} at {file}: it has not been trained in this home")
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            typer.echo(line, nl=False)


@app.command()
def retry(ctx: typer.Context, candidate: CandidateId) -> None:
    """Train a failed candidate again from scratch, outside the population; it stays failed itself."""
    with write_connection(ctx.obj.database_url) as connection:
        require_candidate(connection, candidate)
        (retry,) = retry_candidates(connection, (candidate,), time.time())
    typer.echo(f"candidate {retry.retry_id} of search {retry.search} will train candidate {candidate} again")


@app.command()
def cancel(ctx: typer.Context, candidate: CandidateId) -> None:
    """Cancel a candidate that is pending or in training."""
    _change(ctx.obj, candidate, transitions.cancel)
    typer.echo(f"candidate {candidate} is cancelled")


def _change(settings: Settings, candidate: int, transition: Callable[[Connection, int, float], object]) -> None:
    with write_connection(settings.database_url) as connection:
        require_candidate(connection, candidate)
        transition(connection, candidate, time.time())
