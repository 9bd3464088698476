"""`data …`: the data sets."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import Format, show, show_one
from eatnas_daemon.data_sets import download_data_set, list_data_sets
from eatnas_db.settings import Settings

app = new_app(no_args_is_help=True)


@app.command("list")
def list_data(format: FormatOption = Format.TABLE) -> None:  # noqa: A002
    """List the known data sets; those without numbers are folders of your own images."""
    rows = list_data_sets()
    if format is Format.TABLE:
        rows = [{name: value if value != 0 else None for name, value in row.items()} for row in rows]
        for row in rows:
            row["needs_download"] = bool(row["needs_download"])
    show(rows, ("name", "images", "test_images", "side", "channels", "classes", "needs_download", "source"), format)


@app.command("prepare")
def prepare_data(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a data set, as listed by `data list`.")],
    root: Annotated[str | None, typer.Option(help="Folder of the files. Default: the data folder of the home.")] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Download a data set if necessary and verify it."""
    settings: Settings = ctx.obj
    folder = root or str(settings.data)
    if sys.stderr.isatty():
        typer.echo(f"downloading and verifying {name}; this may take minutes", err=True)
    show_one({"name": name, "root": folder, **asdict(download_data_set(name, folder))}, format)
