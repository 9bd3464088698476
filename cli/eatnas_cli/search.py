"""`init` and `search`: make a home, create a search, and say what is wanted of it."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eatnas_cli.printing import Format, show, show_one
from eatnas_cli.record import SearchName, Written, changing, viewing
from eatnas_db.errors import RecordError
from eatnas_db.settings import Settings

if TYPE_CHECKING:
    from eatnas_daemon.devices.model import DeviceSnapshot
    from eatnas_db.queries.hosts import RecordedHost
    from eatnas_db.queries.searches import SearchSummary

SlotsPlanned = Annotated[
    int | None,
    typer.Option("--slots", min=1, help="Slots it will run on, which settles the lag; default: this machine's."),
]

search_app = typer.Typer(no_args_is_help=True, help="Create searches and steer them.")

WATCH_SECONDS = 0.5
MOST_CANDIDATES = 100_000_000
MOST_HOURS = 1e9
ROOM_BYTES = 1 << 20
"""What a fresh record takes, with something to spare."""


def init(ctx: typer.Context) -> None:
    """Make a home with an empty record; what is there already stays."""
    make_home(ctx.obj)
    typer.echo(f"home {ctx.obj.home}\nrecord {ctx.obj.printable_url}")


def make_home(settings: Settings) -> None:
    """Folders and record, made where they are missing. Raises `RecordError`."""
    from eatnas_db.database.engine import create_engine_for, current_revision, open_record
    from eatnas_db.database.filesystem import refuse_network_file_system
    from eatnas_migrations import commands

    file = settings.database_file
    folders = [settings.home, settings.logs, settings.artifacts, settings.data]
    if file is not None:
        refuse_network_file_system(file, Path("/proc/mounts"))
        folders.append(file.parent)
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{error.filename} cannot be made: {error.strerror}; choose another --home") from None
    engine = create_engine_for(settings.database_url)
    if (file is not None and not file.exists()) or current_revision(engine) is None:
        if file is not None:
            _require_room(file.parent)
        commands.upgrade(engine)
    engine.dispose()
    open_record(settings.database_url).dispose()


def _require_room(folder: Path) -> None:
    # SQLite tells a used-up quota as an error of the disk; and a record made by halves would help nobody.
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(ROOM_BYTES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RecordError(f"the disk of {folder} is full; make room, then try again: nothing was made") from None
        raise RecordError(f"{folder} cannot be written: {error.strerror}; choose another --home") from None


@search_app.command("create")
def create_command(
    ctx: typer.Context,
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    slots: SlotsPlanned = None,
) -> None:
    """Check a spec and put its search, with the initial population, into the record."""
    from eatnas_daemon.search_creation import create_search_from_spec, parse_overrides, read_spec_file

    overrides = parse_overrides(changes or ())
    created = create_search_from_spec(ctx.obj, read_spec_file(spec), overrides=overrides, slots=slots)
    tell_doubts(created.warnings)
    tell_created(ctx.obj, created.name, slots)


def tell_created(settings: Settings, name: str, slots: int | None) -> None:
    """Say what to type next, and how many births in flight were settled for a new search, which decides its history."""
    from eatnas_db.queries.searches import get_search

    typer.echo(f"search {name} created; `eatnas-db run {name}` starts it")
    with viewing(settings) as connection:
        row = get_search(connection, name)
    if row.spec["evolution"]["lag"] is None:
        settled = f"{slots} slots" if slots else "this machine"
        typer.echo(
            f"at most {row.lag} of its candidates are in training at a time: its evolution.lag, settled for {settled} "
            f"and a population of {row.population}; with another lag its history is another"
        )
    elif slots is not None:
        typer.echo(f"note: its spec's evolution.lag of {row.lag} holds, whatever --slots says", err=True)


def tell_doubts(doubts: Sequence[str]) -> None:
    """Say on stderr what of a spec that was accepted is doubtful."""
    for doubt in doubts:
        typer.echo(f"note: {doubt}", err=True)


@search_app.command("list")
def list_command(ctx: typer.Context, format: Written = Format.TABLE) -> None:  # noqa: A002
    """All searches, the newest last."""
    from eatnas_daemon.search_progress import is_supervised
    from eatnas_db.queries.searches import list_search_summaries

    with viewing(ctx.obj) as connection:
        rows, worked_on = list_search_summaries(connection), is_supervised(ctx.obj, connection)
    show_standings(rows, worked_on, format)


def show_standings(rows: Sequence[SearchSummary], worked_on: bool, format: Format) -> None:  # noqa: A002
    """A line for each search: its status, how many births of how many have settled, its best."""
    from eatnas_daemon.search_progress import current_status

    told = [{**asdict(row), "status": current_status(row, worked_on)} for row in rows]
    if format is not Format.TABLE:
        show(told, ("name", "status", "settled", "budget", "best", "created_at"), format)
    elif not rows:
        typer.echo("no searches yet; `eatnas-db search create SPEC.yaml` makes one")
    else:
        for row in told:
            row["settled"] = f"{row['settled']}/{row['budget']}"
        show(told, ("name", "status", "settled", "best", "created_at"))


def losses_in_words(hosts: Sequence[RecordedHost], now: float | None = None) -> list[str]:
    """Of each host that is gone without having stopped: since when, and what became of its candidates."""
    told = []
    for one in hosts:
        if one.lost:
            minutes = max(0.0, (time.time() if now is None else now) - one.seen_at) / 60
            what = "will go on elsewhere within a minute" if one.in_training else "went on elsewhere"
            told.append(f"host {one.name} has not been heard of for {minutes:.0f} min; its candidates {what}")
    return told


@search_app.command("show")
def show_command(ctx: typer.Context, name: SearchName, format: Written = Format.TABLE) -> None:  # noqa: A002
    """One search: its status, counters and spec."""
    from eatnas_daemon.search_progress import current_status, is_supervised
    from eatnas_db.database.dialects import is_postgresql
    from eatnas_db.queries.final_models import count_test_evaluations
    from eatnas_db.queries.hosts import list_hosts
    from eatnas_db.queries.progress import get_progress
    from eatnas_db.queries.searches import get_search

    with viewing(ctx.obj) as connection:
        row = get_search(connection, name)
        looks = count_test_evaluations(connection, row.id)
        progress = asdict(get_progress(connection, row.id))
        status = current_status(row, is_supervised(ctx.obj, connection))
        lost = losses_in_words(list_hosts(connection)) if row.finished_at is None and is_postgresql(connection) else []
    if lost:
        status = "; ".join([status, *lost])
    facts = {"test_looks": looks, "lag": row.lag, "data_digest": row.data_digest, "spec": row.spec}
    show_one({"name": row.name, "status": status, "ended": row.ended, **progress, **facts}, format)


@search_app.command()
def watch(ctx: typer.Context, name: SearchName) -> None:
    """Watch a search until it ends or you press Ctrl-C; nothing is changed.

    On a terminal: budgets with the time left, the quality curve, the best, and what each slot does. Elsewhere a
    line for each change.
    """
    from eatnas_cli.dashboard import Dashboard
    from eatnas_cli.progress import Display
    from eatnas_db.database.engine import open_record
    from eatnas_db.database.transactions import read_transaction
    from eatnas_db.queries.searches import get_search

    engine = open_record(ctx.obj.database_url)
    with read_transaction(engine) as connection:
        get_search(connection, name)
    view: Dashboard | Display
    view = (Dashboard if sys.stdout.isatty() else Display)(engine, ctx.obj, name)
    with view as display:
        while not display.refresh():
            time.sleep(WATCH_SECONDS)


@search_app.command()
def estimate(
    ctx: typer.Context,
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Slots it would run on; default: what this machine has.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Architectures timed.")] = 3,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Time a few sampled architectures on this machine, and say how long the search would take. Writes nothing.

    On the first GPU that is free, or else on the processor; with CUDA_VISIBLE_DEVICES set to nothing, on that anyway.
    """
    from eatnas_daemon.data_sets import data_with_root
    from eatnas_daemon.devices.placement import torch_device_name, worker_environment
    from eatnas_daemon.search_creation import describe_task, parse_overrides, read_spec_file
    from eatnas_daemon.training_programs import run_training_program
    from eatnas_db.domain.objective import Limits
    from eatnas_db.domain.rng import KeyedRng
    from eatnas_db.domain.space import Space
    from eatnas_db.domain.spec import parse_spec

    asked = parse_spec(read_spec_file(spec), parse_overrides(changes or ()))
    task, _ = describe_task(ctx.obj, asked)
    space = Space(asked.macro(), task, Limits(asked.objective.max_params, asked.objective.max_mult_adds))
    space.require_feasible()
    drawn = [space.sample(KeyedRng(asked.seed, "estimate", n), lambda _: False) for n in range(samples)]
    device, count = _where(slots)
    timed = run_training_program(
        "eatnas_training.calibrate",
        request={
            "codes": [proposal.architecture.to_code() for proposal in drawn],
            "macro": asdict(space.macro),
            "task": asdict(task),
            "data": data_with_root(ctx.obj, asked.data.model_dump()),
            "training": asked.training.model_dump(),
            "device": torch_device_name(device),
        },
        environment=worker_environment(device),
    )
    seconds = sorted(row["seconds_per_epoch"] for row in timed)[samples // 2] * asked.training.epochs
    hours = seconds * asked.budget.candidates / count / 3600
    if format is Format.TABLE:
        whole = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
        typer.echo(
            f"{seconds:.1f} s a candidate on {device.label} (median of {samples}); "
            f"{asked.budget.candidates} candidates on {count} slots: {whole}"
        )
        return
    facts = {"seconds_per_candidate": seconds, "device": device.label, "samples": samples}
    show_one({**facts, "candidates": asked.budget.candidates, "slots": count, "hours": hours}, format)


def _where(slots: int | None) -> tuple[DeviceSnapshot, int]:
    """The device that is timed, and how many of the slots would train at the speed that it shows alone."""
    from eatnas_daemon.devices.capacity import count_slots, find_free_device
    from eatnas_daemon.devices.model import CPU
    from eatnas_daemon.devices.monitor import probe_once
    from eatnas_daemon.devices.nvml import Nvml
    from eatnas_daemon.devices.options import parse_options

    seen = probe_once(Nvml())
    device = find_free_device(seen, os.environ)
    here = device.cores if device.kind == CPU else count_slots(seen, os.environ)
    if device.kind == CPU and not parse_options(seen, environment=os.environ).use_cpu:
        typer.echo("note: no GPU may be used now (`eatnas-db devices --explain`), so the processor is timed", err=True)
    return device, here if slots is None else slots if device.kind == CPU else min(slots, here)


@search_app.command()
def pause(ctx: typer.Context, name: SearchName) -> None:
    """Checkpoint what is in training and stop; `resume` goes on."""
    _wish(ctx.obj, name, "paused")
    typer.echo(f"search {name} is paused; `eatnas-db search resume {name}` goes on with it")


@search_app.command()
def resume(ctx: typer.Context, name: SearchName) -> None:
    """Go on with a paused search."""
    _wish(ctx.obj, name, "run")
    typer.echo(f"search {name} goes on")


@search_app.command()
def cancel(ctx: typer.Context, name: SearchName) -> None:
    """End a search for good; its history stays."""
    _wish(ctx.obj, name, "cancelled")
    typer.echo(f"search {name} is cancelled; its history stays")


@search_app.command()
def extend(
    ctx: typer.Context,
    name: SearchName,
    candidates: Annotated[int, typer.Option(min=0, max=MOST_CANDIDATES, help="How many more.")] = 0,
    device_hours: Annotated[float, typer.Option(min=0, max=MOST_HOURS, help="How many more, where limited.")] = 0.0,
) -> None:
    """Give a search more to do; reopens a finished one."""

    if not candidates and not device_hours:
        raise typer.BadParameter("say how much more: --candidates N, --device-hours H, or both")
    from eatnas_db.searches.control import extend_search

    with changing(ctx.obj) as connection:
        budget, seconds = extend_search(
            connection, name, candidates=candidates, device_hours=device_hours, now=time.time()
        )
    limit = "" if seconds is None else f" in {seconds / 3600:g} device hours"
    typer.echo(f"search {name} may try {budget} candidates{limit}")


def _wish(settings: Settings, name: str, wish: str) -> None:
    from eatnas_db.domain.states import DesiredState
    from eatnas_db.searches.control import set_desired_state

    with changing(settings) as connection:
        set_desired_state(connection, name, DesiredState(wish), time.time())
