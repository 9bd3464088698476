"""The program `eatnas-db`: its commands, each imported when it is used, and the output of errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer

from eatnas_cli.lazy_group import LazyCommand, LazyGroup, new_app
from eatnas_cli.sentences import print_sentence
from eatnas_db.distributions import WHOLE, explain_missing_module, installed_versions
from eatnas_db.errors import EatnasError, InvalidSpecError, NotFoundError, describe_os_error
from eatnas_db.settings import load_settings
from eatnas_db.text_encoding import escape_unstorable, is_storable, let_output_escape
from eatnas_protocol.long_texts import shorten_words

COMMANDS: Final = {
    "init": LazyCommand("eatnas_cli.init", "Create the home folder and the database; existing data is kept."),
    "doctor": LazyCommand(
        "eatnas_cli.doctor",
        "Check whether searches can run on this machine and advise on problems; exit with status 1 if a check fails.",
    ),
    "demo": LazyCommand(
        "eatnas_cli.demo",
        "Run EAT-NAS from start to end on scikit-learn's digits and query the results.",
    ),
    "search": LazyCommand("eatnas_cli.search.app", "Create, show, watch and control searches."),
    "run": LazyCommand("eatnas_cli.run", "Train one search in the foreground until it ends."),
    "transfer": LazyCommand(
        "eatnas_cli.transfer",
        "Create a search that starts with the best candidate of another search and its perturbations (EAT-NAS).",
    ),
    "query": LazyCommand("eatnas_cli.query.app", "Query the database."),
    "candidate": LazyCommand("eatnas_cli.candidate", "Show, retry or cancel a candidate."),
    "report": LazyCommand(
        "eatnas_cli.report",
        "Write a report about a search as one self-contained HTML file.",
    ),
    "serve": LazyCommand(
        "eatnas_cli.serve",
        "Show the searches on a live web page and serve the queries as JSON, read-only; Ctrl-C ends the server.",
    ),
    "export": LazyCommand(
        "eatnas_cli.export",
        "Write a trained model as files that other programs read, and verify each file against the checkpoint.",
    ),
    "predict": LazyCommand(
        "eatnas_cli.predict",
        "Classify images with an exported model and print the most probable classes.",
    ),
    "daemon": LazyCommand("eatnas_cli.daemon", "Start, stop and watch the daemon that trains candidates."),
    "devices": LazyCommand("eatnas_cli.devices", "List, pause and resume the devices that can train."),
    "space": LazyCommand("eatnas_cli.space", "Show search spaces, sample architectures and compute their cost."),
    "data": LazyCommand("eatnas_cli.data", "List, download and verify data sets."),
    "db": LazyCommand("eatnas_cli.db", "Upgrade, check, back up, restore and copy the database."),
    "mlflow": LazyCommand("eatnas_cli.mlflow", "Write searches to MLflow and open its user interface."),
    "mcp": LazyCommand(
        "eatnas_cli.mcp",
        "Serve the queries to an agent over stdin and stdout (Model Context Protocol); the agent starts this command.",
    ),
}


class RootGroup(LazyGroup):
    """The commands and groups of the program."""

    lazy_commands = COMMANDS


app = new_app(cls=RootGroup, no_args_is_help=True, add_completion=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        versions = installed_versions()
        if not versions:
            raise NotFoundError(f"{WHOLE} is not installed; run `pip install .` in its source folder")
        name, number = next(iter(versions.items()))
        typer.echo(f"{name} {number}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[
        str | None, typer.Option(metavar="PATH", help="Home folder. Default: EATNAS_HOME, or .eatnas.")
    ] = None,
    db: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database URL. Default: EATNAS_DB_URL, or an SQLite file in the home."),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A neural architecture search that keeps its whole history in a database."""
    ctx.obj = load_settings(os.environ, home, db)


def _require_text(arguments: list[str]) -> None:
    """Raise `EatnasError` for an argument that is not valid Unicode, and so can be neither printed nor stored."""
    for argument in arguments:
        if not is_storable(argument):
            encoding = sys.getfilesystemencoding()
            way_out = "rename the file, or type the text in UTF-8" if encoding == "utf-8" else "set PYTHONUTF8=1"
            raise EatnasError(f"the argument {escape_unstorable(argument)} is not valid text in {encoding}; {way_out}")


def _print_error(*lines: str) -> None:
    for line in f"eatnas-db: {lines[0]}", *lines[1:]:
        print_sentence(shorten_words(line), error=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line with `arguments`, by default the arguments of the program.

    If the user made a mistake, print one line and exit with status 1.
    """
    let_output_escape()
    try:
        _require_text(sys.argv[1:] if arguments is None else arguments)
        app(arguments)
    except InvalidSpecError as error:
        _print_error(*str(error).split("\n"))  # print each error of the spec on its own line
        sys.exit(1)
    except EatnasError as error:
        _print_error(str(error))
        sys.exit(1)
    except ModuleNotFoundError as error:
        explained = explain_missing_module(error)
        if explained is None:
            raise
        _print_error(str(explained))
        sys.exit(1)
    except OSError as error:
        _print_error(describe_os_error(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
