"""The command line: parse, call one function, print. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from eatnas_cli.daemon import daemon_app
from eatnas_cli.db import data_app, database_app
from eatnas_cli.devices import devices_app
from eatnas_cli.doctor import doctor
from eatnas_cli.mlflow import mlflow_app
from eatnas_cli.query import candidate_app, query_app
from eatnas_cli.report import report
from eatnas_cli.run import demo, run
from eatnas_cli.search import init, search_app
from eatnas_cli.space import space_app
from eatnas_cli.transfer import transfer
from eatnas_db.errors import EatnasError
from eatnas_db.settings import load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(search_app, name="search")
app.add_typer(query_app, name="query")
app.add_typer(candidate_app, name="candidate")
app.add_typer(daemon_app, name="daemon")
app.add_typer(devices_app, name="devices")
app.add_typer(space_app, name="space")
app.add_typer(data_app, name="data")
app.add_typer(database_app, name="db")
app.add_typer(mlflow_app, name="mlflow")
app.command()(demo)
app.command()(init)
app.command()(doctor)
app.command()(run)
app.command()(transfer)
app.command()(report)


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[str | None, typer.Option(help="Home folder; default .eatnas, or EATNAS_HOME.")] = None,
    db: Annotated[str | None, typer.Option(help="Database URL; default in the home, or EATNAS_DB_URL.")] = None,
) -> None:
    """A neural architecture search that lives in a database."""
    ctx.obj = load_settings(os.environ, home, db)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, by default on the program's own; a user's mistake is one line on stderr and exit 1."""
    try:
        app(arguments)
    except EatnasError as error:
        print(f"eatnas-db: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"eatnas-db: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
