"""`run`, `daemon` and `demo`: what keeps a search going."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Annotated, Any

import typer

from eatnas_db.errors import ConflictError
from eatnas_db.settings import Settings

daemon_app = typer.Typer(no_args_is_help=True, help="The daemon that trains what is pending.")
Slots = Annotated[int | None, typer.Option(min=1, help="Candidates trained at a time; default: physical cores.")]
START_SECONDS = 10.0
STOP_SECONDS = 120.0


def run(ctx: typer.Context, name: str, slots: Slots = None) -> None:
    """Train one search in the foreground until it ends. Exit 0 finished, 75 preempted, 3 paused or cancelled."""
    raise typer.Exit(run_search(ctx.obj, name, slots))


def run_search(settings: Settings, name: str, slots: int | None) -> int:
    """Supervise one search with a progress line; the exit code."""
    from eatnas_daemon import lock
    from eatnas_db.database import open_record, reading
    from eatnas_db.domain.states import Wish
    from eatnas_db.queries.searches import get_search

    engine = open_record(settings.database_url)
    with reading(engine) as connection:
        get_search(connection, name)
    with lock.hold(settings.lock_file):
        _supervise(settings, engine, slots, name)
    with reading(engine) as connection:
        row = get_search(connection, name)
    if row.wish != Wish.RUN:
        return 3
    return 0 if row.finished_at is not None else 75


def _supervise(settings: Settings, engine: Any, slots: int | None, only: str | None) -> None:
    import socket

    import psutil

    from eatnas_daemon.launchers import Launcher
    from eatnas_daemon.supervisor import Supervisor

    _follow(settings)
    count = slots or psutil.cpu_count(logical=False) or 1
    supervisor = Supervisor(
        engine,
        settings,
        Launcher(settings.logs),
        slots=count,
        host_name=socket.gethostname(),
        only=only,
    )
    if only is None:
        supervisor.run()
        return
    from eatnas_cli.progress import Display

    with Display(engine, only) as display:
        supervisor.run(lambda now: display.refresh(now.finished, now.trouble))


def _follow(settings: Settings) -> None:
    """Start the process that copies the record to MLflow. Nothing waits for it; it leaves after its parent."""
    command = [sys.executable, "-m", "eatnas_daemon.tracking", "--db", settings.database_url]
    command += ["--mlflow", os.environ.get("MLFLOW_TRACKING_URI") or settings.mlflow_uri]
    settings.logs.mkdir(parents=True, exist_ok=True)
    with (settings.logs / "mlflow.log").open("ab") as log:
        # Its own session, so that Ctrl-C in the terminal leaves it to write the last runs.
        subprocess.Popen(
            ["nice", "-n", "10", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


@daemon_app.command()
def start(
    ctx: typer.Context,
    slots: Slots = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay attached, for systemd.")] = False,
) -> None:
    """Start the daemon for every search of this home."""
    from eatnas_daemon import lock
    from eatnas_db.database import open_record

    settings: Settings = ctx.obj
    engine = open_record(settings.database_url)
    if foreground:
        with lock.hold(settings.lock_file):
            _supervise(settings, engine, slots, None)
        return
    holder = lock.holder_of(settings.lock_file)
    if holder is not None:
        raise ConflictError(f"a daemon (pid {holder}) works on this record already")
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(settings.home), "--db", settings.database_url]
    command += ["daemon", "start", "--foreground", *([] if slots is None else ["--slots", str(slots)])]
    settings.logs.mkdir(parents=True, exist_ok=True)
    with (settings.logs / "daemon.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while lock.holder_of(settings.lock_file) != process.pid:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ConflictError(f"the daemon did not start; see {settings.logs / 'daemon.log'}")
        time.sleep(0.05)
    typer.echo(f"daemon started, pid {process.pid}")


@daemon_app.command()
def stop(ctx: typer.Context) -> None:
    """Drain: what is in training is checkpointed and released, then the daemon leaves."""
    from eatnas_daemon import lock

    holder = lock.holder_of(ctx.obj.lock_file)
    if holder is None:
        typer.echo("no daemon is running")
        return
    os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while lock.holder_of(ctx.obj.lock_file) == holder:
        if time.monotonic() > deadline:
            raise ConflictError(f"the daemon (pid {holder}) has not left after {STOP_SECONDS:g} s")
        time.sleep(0.05)
    typer.echo("daemon stopped")


@daemon_app.command()
def restart(ctx: typer.Context, slots: Slots = None) -> None:
    """Stop, then start."""
    stop(ctx)
    start(ctx, slots, False)


@daemon_app.command()
def status(ctx: typer.Context) -> None:
    """Whether the daemon runs, and how far each search is."""
    from eatnas_cli.searches import print_searches
    from eatnas_daemon import lock

    holder = lock.holder_of(ctx.obj.lock_file)
    typer.echo("no daemon is running" if holder is None else f"daemon running, pid {holder}")
    print_searches(ctx.obj)


@daemon_app.command()
def logs(ctx: typer.Context, lines: Annotated[int, typer.Option(min=1)] = 50) -> None:
    """The end of the daemon's log."""
    file = ctx.obj.logs / "daemon.log"
    if not file.exists():
        raise ConflictError(f"there is no log yet at {file}")
    for line in file.read_text(errors="replace").splitlines()[-lines:]:
        typer.echo(line)


def demo(ctx: typer.Context) -> None:
    """A whole search on real images (scikit-learn's digits), then what can be asked about it."""
    from eatnas_cli.asking import best, fingerprint, lineage
    from eatnas_cli.searches import create, make_home
    from eatnas_db.database import open_record, reading
    from eatnas_db.queries.searches import list_searches

    settings: Settings = ctx.obj
    make_home(settings)
    with reading(open_record(settings.database_url)) as connection:
        taken = {row.name for row in list_searches(connection)}
    name = next(n for n in ("demo", *(f"demo-{i}" for i in range(2, 10_000))) if n not in taken)
    create(settings, {"name": name, **DEMO}, {}, 2)
    code = run_search(settings, name, 2)
    if code != 0:
        raise typer.Exit(code)
    typer.echo("\nThe best architectures")
    best(ctx, name, top=5)
    typer.echo("\nHow the best one came to be")
    lineage(ctx, name)
    typer.echo("\nIts fingerprint, equal wherever this search is run on an equal processor")
    fingerprint(ctx, name)
    typer.echo(
        f"\nWhat to type next:\n  eatnas-db query population {name}\n"
        f"  eatnas-db query quality {name}\n  eatnas-db search extend {name} --candidates 16"
    )


DEMO: dict[str, Any] = {
    "seed": 1,
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 6, "batch_size": 32, "augment": "none"},
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "objective": {"max_mult_adds": 2_500_000},
    "budget": {"candidates": 24},
}
