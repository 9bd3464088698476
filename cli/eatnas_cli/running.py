"""`run` and `demo`: a search in the foreground; and what supervises it, here as in the daemon."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from eatnas_cli.record import SearchName
from eatnas_db.domain.states import Wish
from eatnas_db.errors import ConflictError
from eatnas_db.settings import Settings

if TYPE_CHECKING:
    from eatnas_daemon.supervisor import Supervisor
    from eatnas_db.queries.searches import SearchRecord

Slots = Annotated[int | None, typer.Option(min=1, help="Candidates trained at a time; default: physical cores.")]
WATCH_SECONDS: Final = 0.2
BUSY_SECONDS: Final = 5.0
"""How long a supervisor waits for another program's transaction: meanwhile it does not hear its workers."""
FINISHED, STOPPED, PREEMPTED = 0, 3, 75


def run(ctx: typer.Context, name: SearchName, slots: Slots = None) -> None:
    """Train one search in the foreground until it ends.

    Where a daemon works on the record already, only watch; take over if it goes away. Exit 0: finished. 75:
    stopped by a signal, start me again. 3: paused, cancelled or out of device hours.
    """
    raise typer.Exit(run_search(ctx.obj, name, slots))


def run_search(settings: Settings, name: str, slots: int | None) -> int:
    """Supervise one search, or watch who does, with a progress line; the exit code."""
    from eatnas_cli.progress import Display
    from eatnas_daemon import lock
    from eatnas_db.database import open_record, reading
    from eatnas_db.queries.searches import get_open_yardstick, get_search

    # Until the supervisor takes the signals, nothing is in hand that would have to be checkpointed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
    engine = open_record(settings.database_url)
    told: int | None = None

    def standing() -> SearchRecord:
        with reading(engine) as connection:
            return get_search(connection, name)

    def goes_on() -> bool:
        with reading(engine) as connection:
            row = get_search(connection, name)
            measuring = get_open_yardstick(connection, row.id)
        return _goes_on(row) or (measuring is not None and _goes_on(measuring))

    standing()
    with Display(engine, settings, name) as display:
        while goes_on():
            with ExitStack() as held:
                try:
                    held.enter_context(lock.hold(settings.lock_file))
                except ConflictError:
                    holder = lock.holder_of(settings.lock_file)
                    if holder not in (None, told):
                        typer.echo(f"a daemon (pid {holder}) works on this record; watching", err=True)
                        told = holder
                    display.refresh()
                    time.sleep(WATCH_SECONDS)
                    continue
                supervise(
                    settings,
                    slots,
                    only=name,
                    on_tick=lambda now: display.refresh(at_once=now.finished, trouble=now.trouble),
                )
            break
        display.refresh(at_once=True)
    return _exit_code(standing())


def supervise(
    settings: Settings,
    slots: int | None,
    *,
    only: str | None = None,
    when_ready: Callable[[], None] = lambda: None,
    on_tick: Callable[[Supervisor], object] = lambda _: None,
) -> None:
    """Keep all slots training until stopped, or until the search `only` is finished; the log tells."""
    import socket

    import psutil

    from eatnas_cli.journal import Journal, open_log
    from eatnas_daemon.follower import Follower
    from eatnas_daemon.launchers import Launcher
    from eatnas_daemon.supervisor import Supervisor
    from eatnas_db.database import open_record

    engine = open_record(settings.database_url, busy_seconds=BUSY_SECONDS)
    log = open_log(settings.logs / "daemon.log")
    journal = Journal(engine, log)
    follower = Follower(
        settings.database_url,
        os.environ.get("MLFLOW_TRACKING_URI") or settings.mlflow_uri,
        settings.logs / "mlflow.log",
    )
    count = slots or psutil.cpu_count(logical=False) or 1

    def look(supervisor: Supervisor) -> None:
        journal.look(supervisor)
        follower.ensure()
        on_tick(supervisor)

    log.info("started, pid %d, %d slots%s", os.getpid(), count, f", for search {only} alone" if only else "")
    try:
        supervisor = Supervisor(
            engine, settings, Launcher(settings.logs), slots=count, host_name=socket.gethostname(), only=only
        )
        follower.start()
        when_ready()
        supervisor.run(look)
        journal.look(supervisor, at_once=True)
    except Exception:
        log.exception("ends by an error")
        raise
    finally:
        follower.stop()
    log.info("stopped, pid %d", os.getpid())


def _goes_on(row: SearchRecord) -> bool:
    return row.finished_at is None and row.wish == Wish.RUN


def _exit_code(row: SearchRecord) -> int:
    if row.wish != Wish.RUN:
        return STOPPED
    if row.finished_at is None:
        return PREEMPTED
    done = row.exhausted or row.settled >= row.budget_candidates
    return FINISHED if done else STOPPED


def demo(ctx: typer.Context) -> None:
    """A whole search on real images (scikit-learn's digits), then what can be asked about it."""
    from eatnas_cli.asking import best, fingerprint, lineage
    from eatnas_cli.record import viewing
    from eatnas_cli.searches import create, make_home
    from eatnas_db.queries.searches import list_searches

    settings: Settings = ctx.obj
    make_home(settings)
    with viewing(settings) as connection:
        taken = {row.name for row in list_searches(connection)}
    name = next(n for n in ("demo", *(f"demo-{i}" for i in range(2, 10_000))) if n not in taken)
    create(settings, {"name": name, **DEMO}, {}, 2)
    code = run_search(settings, name, 2)
    if code != FINISHED:
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


DEMO: Final[dict[str, Any]] = {
    "seed": 1,
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 6, "batch_size": 32, "augment": "none"},
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "objective": {"max_mult_adds": 2_500_000},
    "budget": {"candidates": 24},
}
