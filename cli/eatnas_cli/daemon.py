"""`daemon …`: start, stop and watch the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from eatnas_cli.daemon_status import read_status, show_status
from eatnas_cli.layout_options import width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout
from eatnas_cli.resource_options import daemon_options
from eatnas_cli.sentences import print_sentence
from eatnas_daemon.daemon_lock import RecordUser, find_record_user
from eatnas_daemon.daemon_options import READY_PREFIX, DaemonOptions, change_options, load_options
from eatnas_daemon.lock_holder import LockHolder
from eatnas_db.database.engine import open_record
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.interpreter import python_command
from eatnas_db.settings import Settings

app = new_app(no_args_is_help=True)
Now = Annotated[
    bool,
    typer.Option("--now", help="Kill the workers at once. The work since their last checkpoints is repeated later."),
]

POLL_SECONDS: Final = 0.05
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 120.0
STOP_NOW_SECONDS: Final = 10.0
TAIL_BYTES: Final = 10_000_000


@app.command()
@takes_options(options=daemon_options)
def start(
    ctx: typer.Context,
    *,
    options: DaemonOptions,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Run in the foreground, for example under systemd.")
    ] = False,
) -> None:
    """Start the daemon for all searches of this home."""
    _start(ctx.obj, options, foreground)


def _start(settings: Settings, options: DaemonOptions, foreground: bool = False) -> None:
    open_record(settings.database_url).dispose()
    if foreground:
        from eatnas_daemon.main import run_daemon

        run_daemon(settings, options)
        return
    user = find_record_user(settings.lock_file)
    if user is not None:
        raise ConflictError(f"{user} already uses this database; `eatnas-db daemon status` shows it")
    print_sentence(f"daemon started, pid {_detached(settings, options)}")


def _detached(settings: Settings, options: DaemonOptions) -> int:
    """Start a daemon in the background, and return its pid when it is ready.

    Raises `ConflictError` with the daemon's error if the daemon does not start.
    """
    command = python_command("-m", "eatnas_daemon.main", "--home", str(settings.home), *options.arguments())
    settings.logs.mkdir(parents=True, exist_ok=True)
    output = settings.logs / "daemon.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            # Pass the URL in the environment: it may contain a password, and every user can read the arguments of a
            # process.
            env={**os.environ, "EATNAS_DB_URL": settings.database_url},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not (text := output.read_text(errors="replace")).startswith(READY_PREFIX):
        if process.poll() is not None:
            last = (text.strip().splitlines() or [f"see {output}"])[-1]
            raise ConflictError(f"the daemon did not start: {last.removeprefix('eatnas-db: ')}")
        if time.monotonic() > deadline:
            process.terminate()
            raise ConflictError(f"the daemon did not start within {START_SECONDS:g} s; see {output}")
        time.sleep(POLL_SECONDS)
    return process.pid


@app.command()
def stop(ctx: typer.Context, now: Now = False) -> None:
    """Stop the daemon. It first checkpoints its trainings, which takes seconds.

    With --now, the daemon kills its workers at once. The next daemon continues from their last checkpoints.
    """
    settings: Settings = ctx.obj
    user = find_record_user(settings.lock_file)
    if user is None:
        print_sentence("no daemon is running")
        return
    daemon = _require_own_daemon(user, settings.lock_file)
    if daemon.is_suspended:
        raise ConflictError(f"the daemon ({daemon}) is suspended; `kill -CONT {daemon.pid}` resumes it")
    _signal(daemon)
    timeout = STOP_NOW_SECONDS if now else STOP_SECONDS
    deadline = time.monotonic() + timeout
    while find_record_user(settings.lock_file) == user:
        if time.monotonic() > deadline:
            advice = f"`kill -KILL {daemon.pid}` kills it" if now else "`eatnas-db daemon stop --now` does not wait"
            raise ConflictError(f"the daemon ({daemon}) did not stop within {timeout:g} s; {advice}; no data is lost")
        time.sleep(POLL_SECONDS)
        if now:
            # The second signal makes the daemon kill its workers. Repeat the signal, because two quick signals may be
            # delivered as one.
            _signal(daemon)
    print_sentence("daemon stopped")


def _require_own_daemon(user: RecordUser, lock_file: Path) -> LockHolder:
    """Return the daemon's process. Raises `ConflictError` unless the process is proven to hold the lock."""
    if user.process.is_identified and not user.is_daemon:
        raise ConflictError(f"no daemon is running, but {user} uses this database; wait until it ends")
    if user.process.is_identified and not user.process.is_visible:
        raise ConflictError(f"the daemon runs elsewhere ({user.process}); stop it there")
    if not user.process.is_running and find_record_user(lock_file) == user:
        raise ConflictError(
            f"nothing was stopped: {lock_file} names {user.process}, but another process holds the lock; find "
            f"it with `fuser {lock_file}`"
        )
    return user.process


def _signal(daemon: LockHolder) -> None:
    try:
        daemon.send_signal(signal.SIGTERM)
    except PermissionError:
        raise ConflictError(f"the daemon ({daemon}) belongs to another user; only that user can stop it") from None


@app.command()
@takes_options(options=daemon_options)
def restart(
    ctx: typer.Context,
    *,
    options: DaemonOptions,
    now: Now = False,
) -> None:
    """Stop the daemon and start it again. Options that you do not give keep their values."""
    changed = change_options(load_options(ctx.obj), options)
    stop(ctx, now)
    _start(ctx.obj, changed)


@app.command()
@takes_options(layout=width_options)
def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show a live table of all devices until Ctrl-C.")] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Show the daemon, its trainings and the progress of the searches. With PostgreSQL, show all hosts."""
    if watch:
        from eatnas_cli.device_view import watch_devices

        watch_devices(ctx.obj)
        return

    show_status(read_status(ctx.obj), format, layout)


@app.command()
def logs(
    ctx: typer.Context,
    lines: Annotated[int, typer.Option(min=1, help="Number of lines to print, counted from the end.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines as they are written, until Ctrl-C.")
    ] = False,
) -> None:
    """Print the end of the daemon's log."""
    file = _log_file(ctx.obj)
    if not file.exists():
        raise NotFoundError(
            f"no log at {file}: no daemon has run in this home yet; `eatnas-db daemon start` starts one"
        )
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - TAIL_BYTES))
        for line in log.read().decode(errors="replace").splitlines()[-lines:]:
            typer.echo(line)
        end = log.tell()
    if follow:
        _follow(file, end)


def _follow(file: Path, end: int) -> None:
    while True:
        sys.stdout.flush()
        time.sleep(POLL_SECONDS)
        size = file.stat().st_size if file.exists() else 0
        if size < end:
            # The log was rotated, so read the new file from its beginning.
            end = 0
        if size > end:
            with file.open("rb") as log:
                log.seek(end)
                chunk = log.read()
            end += len(chunk)
            typer.echo(chunk.decode(errors="replace"), nl=False)


def _log_file(settings: Settings) -> Path:
    return settings.logs / "daemon.log"
