"""`search watch`: show the progress of a search."""

from __future__ import annotations

import sys
import time
from typing import Final

import typer

from eatnas_cli.dashboard import Dashboard
from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import SearchName
from eatnas_cli.progress import Display
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.garbage_collection import collect_as_usual
from eatnas_db.queries.searches import get_search

app = new_app()

WATCH_SECONDS: Final = 0.5


@app.command()
def watch(ctx: typer.Context, name: SearchName) -> None:
    """Watch a search, without changing it, until it ends or you press Ctrl-C.

    On a terminal it shows the budgets with the time left, the quality curve, the best candidates and the slots;
    otherwise it prints a line for each change.
    """
    collect_as_usual()
    engine = open_record(ctx.obj.database_url)
    with read_transaction(engine) as connection:
        get_search(connection, name)
    view: Dashboard | Display
    view = (Dashboard if sys.stdout.isatty() else Display)(engine, ctx.obj, name)
    with view as display:
        while not display.refresh():
            time.sleep(WATCH_SECONDS)
