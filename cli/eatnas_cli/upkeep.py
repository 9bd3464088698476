"""Upkeep: the database's version, the data sets, and whether this machine is ready."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import typer

from eatnas_db.errors import DataError, RecordError
from eatnas_db.settings import Settings

data_app = typer.Typer(no_args_is_help=True, help="The data sets.")
database_app = typer.Typer(no_args_is_help=True, help="The database's schema.")


def prepare(what: str, data: dict[str, Any]) -> Any:
    """Ask about a data set: `list`, `describe` or `download`. Raises `DataError`."""
    return ask_training(["eatnas_training.prepare", what], data)


def ask_training(program: list[str], question: dict[str, Any]) -> Any:
    """Ask the training package, JSON for JSON, in a process of its own. Raises `DataError`."""
    answer = subprocess.run(
        [sys.executable, "-m", *program],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines()
        raise DataError(lines[-1] if lines else f"{program[0]} left with status {answer.returncode}")
    return json.loads(answer.stdout)


@data_app.command("list")
def list_data() -> None:
    """Known data sets."""
    for row in prepare("list", {}):
        typer.echo(f"{row['name']:<14}" + "  ".join(f"{key}={row[key]}" for key in row if key != "name"))


@data_app.command("prepare")
def prepare_data(
    ctx: typer.Context,
    name: str,
    root: Annotated[str | None, typer.Option(help="Folder of the files; default: the home's data folder.")] = None,
) -> None:
    """Download a data set where that is needed, and verify it."""
    settings: Settings = ctx.obj
    found = prepare("download", {"name": name, "root": root or str(settings.data), "split_seed": 0})
    typer.echo(json.dumps(found))


@database_app.command()
def upgrade(ctx: typer.Context) -> None:
    """Bring the record to this program's version; keeps all data."""
    from eatnas_db.database import create_engine_for
    from eatnas_migrations import commands

    settings: Settings = ctx.obj
    if settings.database_file is None or not settings.database_file.exists():
        raise RecordError(f"no record at {settings.database_file}; `eatnas-db init` makes one")
    commands.upgrade(create_engine_for(settings.database_url))
    current(ctx)


@database_app.command()
def current(ctx: typer.Context) -> None:
    """The record's version, and this program's."""
    from eatnas_db.database import create_engine_for, current_revision
    from eatnas_db.schema import REVISION

    settings: Settings = ctx.obj
    if settings.database_file is None or not settings.database_file.exists():
        raise RecordError(f"no record at {settings.database_file}; `eatnas-db init` makes one")
    found = current_revision(create_engine_for(settings.database_url))
    typer.echo(f"record {found or 'none'}, program {REVISION}")


@database_app.command()
def check(ctx: typer.Context) -> None:
    """Whether the tables are as the program says."""
    from eatnas_db.database import open_record
    from eatnas_migrations import commands

    settings: Settings = ctx.obj
    if commands.differs(open_record(settings.database_url)):
        raise RecordError("the tables differ from what this program says; restore a backup")
    typer.echo("the record is sound: version and tables agree")


def doctor(ctx: typer.Context) -> None:
    """What this machine has, and whether a search could run here."""
    import platform
    import shutil
    from importlib.metadata import version

    from eatnas_db.database import open_record

    settings: Settings = ctx.obj
    typer.echo(f"python {platform.python_version()}")
    for name in ("eatnas-db", "torch", "torchvision", "mlflow", "sqlalchemy"):
        typer.echo(f"{name} {version(name)}")
    try:
        open_record(settings.database_url)
        typer.echo(f"record {settings.database_url}: ready")
    except RecordError as error:
        typer.echo(f"record: {error}")
    if settings.home.exists():
        typer.echo(f"free disk in {settings.home}: {shutil.disk_usage(settings.home).free / 1e9:.1f} GB")
    digits = prepare("describe", {"name": "digits", "root": str(settings.data), "split_seed": 0})
    typer.echo(f"digits: {digits['train_images']} images to train on, {digits['validation_images']} to validate on")
