"""`run`: train one search in the foreground."""

from __future__ import annotations

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import SearchName
from eatnas_cli.progress import Display
from eatnas_cli.resource_options import daemon_options
from eatnas_daemon import main as daemon
from eatnas_daemon.daemon_options import DaemonOptions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.queries.searches import get_search
from eatnas_db.settings import Settings

app = new_app()


@app.command()
@takes_options(options=daemon_options)
def run(ctx: typer.Context, name: SearchName, *, options: DaemonOptions) -> None:
    """Train one search in the foreground until it ends.

    If a daemon is already working on the record, the command only watches, and takes over when the daemon ends. The
    exit status is 0 if the search is finished, 75 if a signal stopped the command (start it again), 3 if the search is
    paused, cancelled or out of device hours, and 4 if no candidate has a score.
    """
    raise typer.Exit(run_search(ctx.obj, name, options))


def run_search(settings: Settings, name: str, options: DaemonOptions) -> int:
    """Train one search in the foreground with a progress display and return the exit code."""
    engine = open_record(settings.database_url)
    with read_transaction(engine) as connection:
        get_search(connection, name)
    with Display(engine, settings, name) as display:
        return daemon.run_search(settings, name, options, display)
