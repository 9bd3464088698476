"""`init` and `search`: make a home, create a search, and say what is wanted of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eatnas_db.errors import InvalidSpecError, RecordError
from eatnas_db.settings import Settings

if TYPE_CHECKING:
    from eatnas_db.domain.macro import Task
    from eatnas_db.domain.spec import SearchSpec

search_app = typer.Typer(no_args_is_help=True, help="Create searches and steer them.")

WATCH_SECONDS = 0.5
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
    tree, overrides = _read(spec, changes)
    name = create(ctx.obj, tree, overrides, slots)
    typer.echo(f"search {name} created; `eatnas-db run {name}` starts it")


def create(settings: Settings, tree: Any, overrides: dict[str, Any], slots: int) -> str:
    """Create a search from a spec's tree; its name. Nothing is written unless all of it is right."""
    from eatnas_db import steps
    from eatnas_db.database import open_record, transaction
    from eatnas_db.domain.spec import parse_spec

    spec = parse_spec(tree, overrides)
    engine = open_record(settings.database_url)
    task, found = _describe(settings, spec)
    with transaction(engine) as connection:
        steps.create_search(connection, spec, task=task, data_digest=found["data_digest"], slots=slots, now=time.time())
    return spec.name


def _read(spec: Path, changes: list[str] | None) -> tuple[Any, dict[str, Any]]:
    """A spec's tree and the changes to it, read but not yet checked. Raises `InvalidSpecError`."""
    import yaml

    try:
        overrides = {key: yaml.safe_load(value) for key, value in map(_pair, changes or [])}
        return yaml.safe_load(spec.read_text()), overrides
    except yaml.YAMLError as error:
        raise InvalidSpecError(f"{spec} is not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise InvalidSpecError(f"{spec} is not a text file") from None


def _data(settings: Settings, spec: SearchSpec) -> dict[str, Any]:
    data = spec.data.model_dump()
    data["root"] = data["root"] or str(settings.data)
    return data


def _describe(settings: Settings, spec: SearchSpec) -> tuple[Task, dict[str, Any]]:
    """What the data fixes of a network, and the rest that is known of the data. Raises `DataError`."""
    from eatnas_cli.upkeep import prepare
    from eatnas_db.domain.macro import Task

    found = prepare("describe", _data(settings, spec))
    return Task(found["resolution"], found["channels"], found["classes"]), found


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidSpecError(f"--set {text}: write section.key=value")
    return key, value


@search_app.command("list")
def list_command(ctx: typer.Context) -> None:
    """All searches, the newest last."""
    print_searches(ctx.obj)


def print_searches(settings: Settings) -> None:
    """A line for each search: its status, and how many births of how many have settled."""
    from eatnas_db.database import open_record, reading
    from eatnas_db.queries.searches import list_searches

    with reading(open_record(settings.database_url)) as connection:
        for row in list_searches(connection):
            typer.echo(f"{row.name}\t{row.status}\t{row.settled}/{row.budget_candidates}")


@search_app.command()
def show(ctx: typer.Context, name: SearchName) -> None:
    """One search: its status, counters and spec."""
    import json

    from eatnas_db.database import open_record, reading
    from eatnas_db.queries.progress import get_progress
    from eatnas_db.queries.searches import get_search

    with reading(open_record(ctx.obj.database_url)) as connection:
        row = get_search(connection, name)
        progress = get_progress(connection, row.id)
    typer.echo(f"{row.name}: {row.status}, {progress.done} of {progress.budget} candidates done")
    typer.echo(
        f"scored {progress.scored}, failed or cancelled {progress.failed}, in training {progress.leased}, "
        f"pending {progress.pending}, best {'none yet' if progress.best is None else f'{progress.best:.4f}'}"
    )
    typer.echo(json.dumps(row.spec, indent=2))


@search_app.command()
def watch(ctx: typer.Context, name: SearchName) -> None:
    """Watch a search until it ends or you press Ctrl-C; nothing is changed."""
    from eatnas_cli.progress import Display
    from eatnas_db.database import open_record, reading
    from eatnas_db.queries.searches import get_search

    engine = open_record(ctx.obj.database_url)
    with Display(engine, name) as display:
        while True:
            with reading(engine) as connection:
                ended = get_search(connection, name).finished_at is not None
            display.refresh(ended)
            if ended:
                return
            time.sleep(WATCH_SECONDS)


@search_app.command()
def estimate(
    ctx: typer.Context,
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    slots: Annotated[int, typer.Option(min=1)] = 2,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Architectures timed.")] = 3,
) -> None:
    """Time a few sampled architectures on this machine, and say how long the search would take. Writes nothing."""
    from dataclasses import asdict

    from eatnas_cli.upkeep import ask_training
    from eatnas_db.domain.chance import Chance
    from eatnas_db.domain.objective import Limits
    from eatnas_db.domain.space import Space
    from eatnas_db.domain.spec import parse_spec

    asked = parse_spec(*_read(spec, changes))
    task, _ = _describe(ctx.obj, asked)
    space = Space(asked.macro(), task, Limits(asked.objective.max_params, asked.objective.max_mult_adds))
    space.require_room()
    drawn = [space.sample(Chance(asked.seed, "estimate", n), lambda _: False) for n in range(samples)]
    timed = ask_training(
        ["eatnas_training.calibrate"],
        {
            "codes": [proposal.architecture.to_code() for proposal in drawn],
            "macro": asdict(space.macro),
            "task": asdict(task),
            "data": _data(ctx.obj, asked),
            "training": asked.training.model_dump(),
        },
    )
    seconds = sorted(row["seconds_per_epoch"] for row in timed)[samples // 2] * asked.training.epochs
    hours = seconds * asked.budget.candidates / slots / 3600
    typer.echo(
        f"{seconds:.1f} s a candidate (median of {samples}); {asked.budget.candidates} candidates on {slots} slots: "
        f"{hours:.2f} hours"
    )


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
