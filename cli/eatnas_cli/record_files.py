"""`db export` and `db import`: the record as files that other programs read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.init import make_home
from eatnas_cli.layout_options import layout_options
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show, show_one
from eatnas_cli.score_options import ScoreOptions, score_options
from eatnas_cli.sentences import print_note, print_sentence
from eatnas_cli.tables import shorten
from eatnas_daemon.daemon_lock import hold_record
from eatnas_db.database.engine import open_record
from eatnas_db.database_copy import TableContents
from eatnas_db.errors import ConflictError
from eatnas_db.record_files import FileFormat, export_record, import_record, read_manifest
from eatnas_db.settings import Settings

LONGEST_NAME, MOST_NAMES = 40, 10
COLUMNS = ("table", "rows", "sha256")


@takes_options(layout=layout_options)
def export_files(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to create. It appears only when it is complete.")
    ],
    files: Annotated[FileFormat, typer.Option("--files", help="Format of the files.")] = FileFormat.JSONL,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Export the database into a folder with one file for each table; the daemon may keep running."""
    engine = open_record(ctx.obj.database_url)
    _show(export_record(engine, folder.absolute(), files, print_row_progress), format, layout)
    if format is Format.TABLE:
        print_sentence(f"wrote {folder}; the folder does not contain the checkpoint files")


@takes_options(scores=score_options, layout=layout_options)
def import_files(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="FOLDER|SCORES.csv", help="A folder written by `db export`, or a file of scores.")
    ],
    scores: ScoreOptions,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Import an exported folder into an empty database, or a CSV file of codes and scores as a search to transfer from.

    If the database does not exist, the command creates it. After importing a folder, the command compares every row
    with the files. The first line of a CSV file names its columns: code and score, and optionally seed and epochs.
    """
    if scores.space is not None or (path.exists() and not path.is_dir()):
        _import_scores(ctx.obj, path, scores, format, layout)
        return
    read_manifest(path)
    make_home(ctx.obj)
    with hold_record(ctx.obj):
        imported = import_record(open_record(ctx.obj.database_url), path.absolute(), print_row_progress)
    _show(imported, format, layout)
    if format is Format.TABLE:
        print_sentence(f"imported {path} into {ctx.obj.printable_url} and compared every row")


def _import_scores(
    settings: Settings,
    file: Path,
    options: ScoreOptions,
    format: Format,  # noqa: A002
    layout: Layout,
) -> None:
    # Import only here, because the module loads pydantic.
    from eatnas_db.searches.score_import import import_score_file, make_origin

    if options.space is None:
        raise ConflictError(
            f"{file} is a file of scores; add --space with the search space of its codes (`eatnas-db space "
            "list` lists the spaces)"
        )
    if file.is_dir():
        raise ConflictError(f"{file} is a folder, but --space needs a file of scores; remove --space, or name the file")
    task_name = file.stem if options.task_name is None else options.task_name
    imported = import_score_file(
        settings,
        file,
        name=file.stem if options.name is None else options.name,
        space=options.space,
        origin=make_origin(task_name, options.metric, options.direction),
        task=options.task,
        on_progress=print_row_progress,
    )
    if imported.ignored:
        print_note(f"{file}: the import ignored these columns: {_list_names(imported.ignored)}")
    if format is not Format.TABLE:
        show_one({"search": imported.search, "candidates": imported.candidates}, format, layout=layout)
        return
    scores = "1 score" if imported.candidates == 1 else f"{imported.candidates:,} scores"
    print_sentence(
        f"imported {scores} as search {imported.search}; start a search from it with "
        f"`eatnas-db transfer {imported.search} SPEC.yaml`"
    )


def _list_names(names: Sequence[str]) -> str:
    """Return at most `MOST_NAMES` names of columns as one string, with long names shortened."""
    shown = [shorten(name, LONGEST_NAME) or "(no name)" for name in dict.fromkeys(names)]
    more = len(shown) - MOST_NAMES
    return ", ".join(shown[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _show(tables: list[TableContents], format: Format, layout: Layout) -> None:  # noqa: A002
    show(tables, COLUMNS, format, layout=layout)


def print_row_progress(table: str, done: int, rows: int) -> None:
    """Write the number of processed rows of a table to stderr, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{table} {done:,} of {rows:,}\033[K", end="\n" if done == rows else "", file=sys.stderr, flush=True)
