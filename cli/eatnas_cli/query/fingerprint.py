"""`query fingerprint`: one digest of a search's whole history."""

from __future__ import annotations

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import Format, show
from eatnas_cli.sentences import print_note
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.settings import Settings

app = new_app()


@app.command()
def fingerprint(ctx: typer.Context, name: SearchName, format: FormatOption = Format.TABLE) -> None:  # noqa: A002
    """Print the fingerprint of a search: a digest that is equal on all machines if the histories are equal."""
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
