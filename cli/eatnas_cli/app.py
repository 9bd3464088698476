"""The command `eatnas-db`: its groups of commands, each imported only when it is used, and its errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer

from eatnas_cli.lazy_group import LazyCommand, LazyGroup, new_app
from eatnas_db.errors import EatnasError
from eatnas_db.settings import load_settings

COMMANDS: Final = {
    "search": LazyCommand("eatnas_cli.search.app", "Create searches and steer them."),
    "query": LazyCommand("eatnas_cli.query.app", "Ask the record."),
    "candidate": LazyCommand("eatnas_cli.candidate", "Look at one candidate, or change what becomes of it."),
    "daemon": LazyCommand("eatnas_cli.daemon", "The daemon that trains what is pending."),
    "devices": LazyCommand("eatnas_cli.devices", "List, pause and resume the devices that can train."),
    "space": LazyCommand("eatnas_cli.space", "The search spaces, and what a code costs."),
    "data": LazyCommand("eatnas_cli.data", "The data sets."),
    "db": LazyCommand("eatnas_cli.db", "The database: versions, backups, soundness."),
    "mlflow": LazyCommand("eatnas_cli.mlflow", "The record as MLflow shows it."),
    "demo": LazyCommand(
        "eatnas_cli.demo",
        "EAT-NAS from end to end on real images (scikit-learn's digits), then what can be asked about it.",
    ),
    "init": LazyCommand("eatnas_cli.init", "Make a home with an empty record; what is there already stays."),
    "doctor": LazyCommand(
        "eatnas_cli.doctor",
        "What this machine has, whether a search could run here, and what to do where not; exit 1 where it could not.",
    ),
    "run": LazyCommand("eatnas_cli.run", "Train one search in the foreground until it ends."),
    "transfer": LazyCommand(
        "eatnas_cli.transfer",
        "Create a search that begins with the best of another and with small changes of it (EAT-NAS).",
    ),
    "report": LazyCommand(
        "eatnas_cli.report",
        "A search as one self-contained web page: its course, its best, where they come from, what failed.",
    ),
}


class RootGroup(LazyGroup):
    """The commands and groups of the program."""

    lazy_commands = COMMANDS


app = new_app(cls=RootGroup, no_args_is_help=True)


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
