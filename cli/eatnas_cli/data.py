"""`data …`: the data sets."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.layout_options import layout_options, width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show, show_one
from eatnas_daemon.data_sets import data_with_root, list_data_sets, prepare_data_set
from eatnas_db.errors import DataError
from eatnas_db.settings import Settings

app = new_app(no_args_is_help=True)


@app.command("list")
@takes_options(layout=layout_options)
def list_data(
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """List the known data sets; those without numbers are folders of your own images."""
    rows = list_data_sets()
    if format is Format.TABLE:
        rows = [{name: value if value != 0 else None for name, value in row.items()} for row in rows]
        for row in rows:
            row["needs_download"] = bool(row["needs_download"])
    show(
        rows,
        ("name", "images", "test_images", "side", "channels", "classes", "needs_download", "source"),
        format,
        layout=layout,
    )


class OnUnreadable(StrEnum):
    """The values of `data.on_unreadable`."""

    FAIL = "fail"
    SKIP = "skip"


@app.command("prepare")
@takes_options(layout=width_options)
def prepare_data(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a data set, as listed by `data list`.")],
    root: Annotated[str | None, typer.Option(help="Folder of the files. Default: the data folder of the home.")] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            min=4, max=1024, help="data.resolution of your searches: also print their digest and fill the cache."
        ),
    ] = None,
    on_unreadable: Annotated[
        OnUnreadable, typer.Option(help="data.on_unreadable of your searches: refuse or skip unreadable images.")
    ] = OnUnreadable.FAIL,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Download a data set if necessary, read all its files, and say what they hold; exit 1 if one is unreadable."""
    settings: Settings = ctx.obj
    section = {"name": name, "root": root, "resolution": resolution, "on_unreadable": on_unreadable.value}
    data = data_with_root(settings, section)
    if sys.stderr.isatty():
        typer.echo(f"downloading and verifying {name}; this may take minutes", err=True)
    prepared = prepare_data_set(data)
    facts = {"name": name, "root": str(Path(data["root"]).expanduser().absolute()), **asdict(prepared)}
    folder = facts.pop("folder")
    if folder is None:
        facts = {field: value for field, value in facts.items() if field not in ("files_digest", "content_digest")}
        show_one(facts, format, layout=layout)
        return
    if format is Format.TABLE:
        facts = {field: value for field, value in facts.items() if value is not None}
    show_one({**facts, **folder}, format, layout=layout)
    unreadable = len(folder["unreadable"])
    if unreadable and on_unreadable is OnUnreadable.FAIL:
        raise DataError(
            f"{data['root']}: {unreadable} of the images cannot be read, listed above as unreadable; replace or delete "
            "them, or skip them with --on-unreadable skip and data.on_unreadable: skip"
        )
    if prepared.resolution is None:
        typer.echo("note: the digest depends on data.resolution; add --resolution to print it", err=True)
