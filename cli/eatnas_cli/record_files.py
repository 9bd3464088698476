"""`db export` and `db import`: the record as files that other programs read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.init import make_home
from eatnas_cli.layout_options import layout_options
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show
from eatnas_daemon.daemon_lock import hold_record
from eatnas_db.database.engine import open_record
from eatnas_db.database_copy import TableContents
from eatnas_db.record_files import FileFormat, export_record, import_record, read_manifest

COLUMNS = ("table", "rows", "sha256")


@takes_options(layout=layout_options)
def export_files(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it appears when it is complete.")],
    files: Annotated[FileFormat, typer.Option("--files", help="Format of the files.")] = FileFormat.JSONL,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Export the database into a folder with one file for each table; the daemon may keep running."""
    engine = open_record(ctx.obj.database_url)
    _show(export_record(engine, folder.absolute(), files, print_row_progress), format, layout)
    if format is Format.TABLE:
        typer.echo(f"wrote {folder}; the files of checkpoints are not in it")


@takes_options(layout=layout_options)
def import_files(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder written by `db export`.")],
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Import an exported folder into an empty database and compare every row; a missing database is created."""
    read_manifest(folder)
    make_home(ctx.obj)
    with hold_record(ctx.obj):
        imported = import_record(open_record(ctx.obj.database_url), folder.absolute(), print_row_progress)
    _show(imported, format, layout)
    if format is Format.TABLE:
        typer.echo(f"imported {folder} into {ctx.obj.printable_url} and compared every row")


def _show(tables: list[TableContents], format: Format, layout: Layout) -> None:  # noqa: A002
    show(tables, COLUMNS, format, layout=layout)


def print_row_progress(table: str, done: int, rows: int) -> None:
    """Write the number of processed rows of a table to stderr, if that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{table} {done:,} of {rows:,}\033[K", end="\n" if done == rows else "", file=sys.stderr, flush=True)
