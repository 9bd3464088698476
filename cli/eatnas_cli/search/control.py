"""`search pause`, `resume`, `cancel` and `extend`: change the desired state and the budget of a search."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import SearchName
from eatnas_cli.sentences import print_sentence
from eatnas_cli.values import count_of
from eatnas_db.database.engine import write_record
from eatnas_db.domain.states import DesiredState
from eatnas_db.searches.control import extend_search, set_desired_state
from eatnas_db.settings import Settings

app = new_app()

MAX_CANDIDATES: Final = 100_000_000
MAX_HOURS: Final = 1e9


@app.command()
def pause(ctx: typer.Context, name: SearchName) -> None:
    """Pause a search: write checkpoints of its trainings and stop them. `search resume` continues it."""
    _set_state(ctx.obj, name, DesiredState.PAUSED)
    print_sentence(f"search {name} is paused; `eatnas-db search resume {name}` resumes it")


@app.command()
def resume(ctx: typer.Context, name: SearchName) -> None:
    """Resume a paused search."""
    _set_state(ctx.obj, name, DesiredState.RUN)
    print_sentence(f"search {name} is resumed")


@app.command()
def cancel(ctx: typer.Context, name: SearchName) -> None:
    """Cancel a search permanently; its history is kept."""
    _set_state(ctx.obj, name, DesiredState.CANCELLED)
    print_sentence(f"search {name} is cancelled; its history is kept")


@app.command()
def extend(
    ctx: typer.Context,
    name: SearchName,
    candidates: Annotated[int, typer.Option(min=0, max=MAX_CANDIDATES, help="Number of additional candidates.")] = 0,
    device_hours: Annotated[
        float,
        typer.Option(min=0, max=MAX_HOURS, help="Additional device hours, for a search that has budget.device_hours."),
    ] = 0.0,
) -> None:
    """Extend the budget of a search; a finished search continues."""
    if not candidates and not device_hours:
        raise typer.BadParameter("give --candidates N, --device-hours H, or both")
    budget, seconds = write_record(
        ctx.obj.database_url,
        lambda connection: extend_search(
            connection, name, candidates=candidates, device_hours=device_hours, now=time.time()
        ),
    )
    limit = "" if seconds is None else f" in {seconds / 3600:g} device hours"
    print_sentence(f"search {name} now has a budget of {count_of(budget, 'candidate')}{limit}")


def _set_state(settings: Settings, name: str, state: DesiredState) -> None:
    write_record(settings.database_url, lambda connection: set_desired_state(connection, name, state, time.time()))
