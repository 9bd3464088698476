"""`init` and `search`: make a home, create a search, and say what is wanted of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from eatnas_db.errors import InvalidSpecError, RecordError
from eatnas_db.settings import Settings

search_app = typer.Typer(no_args_is_help=True, help="Create searches and steer them.")

SearchName = Annotated[str, typer.Argument(metavar="NAME")]


def init(ctx: typer.Context) -> None:
    """Make a home with an empty record; what is there already stays."""
    make_home(ctx.obj)
    typer.echo(f"home {ctx.obj.home}\nrecord {ctx.obj.database_url}")


def make_home(settings: Settings) -> None:
    """Folders and record, made where they are missing. Raises `RecordError`."""
    from eatnas_db.database import create_engine_for, current_revision, open_record, refuse_network_file_system
    from eatnas_migrations import commands

    file = settings.database_file
    if file is None:
        raise RecordError("only SQLite records can be made in this release")
    refuse_network_file_system(file, Path("/proc/mounts"))
    try:
        for folder in (settings.home, settings.logs, settings.artifacts, settings.data, file.parent):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{error.filename} cannot be made: {error.strerror}; choose another --home") from None
    engine = create_engine_for(settings.database_url)
    if current_revision(engine) is None:
        commands.upgrade(engine)
    open_record(settings.database_url)


@search_app.command("create")
def create_command(
    ctx: typer.Context,
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Slots it will run on; settles the lag.")] = 2,
) -> None:
    """Check a spec and put its search, with the initial population, into the record."""
    import yaml

    try:
        tree = yaml.safe_load(spec.read_text())
        overrides = {key: yaml.safe_load(value) for key, value in map(_pair, changes or [])}
    except yaml.YAMLError as error:
        raise InvalidSpecError(f"{spec} is not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise InvalidSpecError(f"{spec} is not a text file") from None
    name = create(ctx.obj, tree, overrides, slots)
    typer.echo(f"search {name} created; `eatnas-db run {name}` starts it")


def create(settings: Settings, tree: Any, overrides: dict[str, Any], slots: int) -> str:
    """Create a search from a spec's tree; its name. Nothing is written unless all of it is right."""
    from eatnas_cli.upkeep import prepare
    from eatnas_db import steps
    from eatnas_db.database import open_record, transaction
    from eatnas_db.domain.macro import Task
    from eatnas_db.domain.spec import parse_spec

    spec = parse_spec(tree, overrides)
    engine = open_record(settings.database_url)
    data = spec.data.model_dump()
    found = prepare("describe", {**data, "root": data["root"] or str(settings.data)})
    task = Task(found["resolution"], found["channels"], found["classes"])
    with transaction(engine) as connection:
        steps.create_search(connection, spec, task=task, data_digest=found["data_digest"], slots=slots, now=time.time())
    return spec.name


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidSpecError(f"--set {text}: write section.key=value")
    return key, value


@search_app.command("list")
def list_command(ctx: typer.Context) -> None:
    """All searches, the newest last."""
    from eatnas_db.database import open_record, reading
    from eatnas_db.queries.searches import list_searches

    with reading(open_record(ctx.obj.database_url)) as connection:
        for row in list_searches(connection):
            typer.echo(f"{row.name}\t{row.status}\t{row.settled}/{row.budget_candidates}")


@search_app.command()
def pause(ctx: typer.Context, name: SearchName) -> None:
    """Checkpoint what is in training and stop; `resume` goes on."""
    _wish(ctx.obj, name, "paused")


@search_app.command()
def resume(ctx: typer.Context, name: SearchName) -> None:
    """Go on with a paused search."""
    _wish(ctx.obj, name, "run")


@search_app.command()
def cancel(ctx: typer.Context, name: SearchName) -> None:
    """End a search for good; its history stays."""
    _wish(ctx.obj, name, "cancelled")


@search_app.command()
def extend(ctx: typer.Context, name: SearchName, candidates: Annotated[int, typer.Option(min=1)]) -> None:
    """Give a search so many more candidates to try; reopens a finished one."""
    from eatnas_db import steps
    from eatnas_db.database import open_record, transaction

    with transaction(open_record(ctx.obj.database_url)) as connection:
        budget = steps.extend(connection, name, candidates, time.time())
    typer.echo(f"search {name} may try {budget} candidates")


def _wish(settings: Settings, name: str, wish: str) -> None:
    from eatnas_db import steps
    from eatnas_db.database import open_record, transaction
    from eatnas_db.domain.states import Wish

    with transaction(open_record(settings.database_url)) as connection:
        steps.set_wish(connection, name, Wish(wish), time.time())
    typer.echo(f"search {name}: {wish}")
