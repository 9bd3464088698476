"""`mlflow …`: write searches to MLflow and start its user interface."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Final

import psutil
import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.sentences import print_sentence
from eatnas_db.distributions import require_module
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.interpreter import python_command
from eatnas_db.settings import Settings
from eatnas_db.urls import hide_passwords, require_parsable_url

app = new_app(no_args_is_help=True)

LINKED_SEARCHES: Final = 5
INTERRUPT_SECONDS: Final = 3.0
STOP_SECONDS: Final = 10.0


@app.command("sync")
def sync_runs(
    ctx: typer.Context,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Rename the store and write a new one. Registered models remain only in the renamed store.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --rebuild: rename the store even if it is outside the home.")
    ] = False,
) -> None:
    """Write the runs that MLflow does not have yet. You can repeat the command safely."""
    require_module("mlflow")
    uri = mlflow_tracking_uri(ctx.obj)
    if rebuild:
        from eatnas_daemon.mlflow.rebuild import move_store_aside
        from eatnas_db.database.engine import open_record

        engine, home_uri = open_record(ctx.obj.database_url), ctx.obj.mlflow_uri
        for path in move_store_aside(engine, uri, home_uri=home_uri, confirmed=yes):
            print_sentence(f"kept as {path}")
    _sync(ctx.obj, uri)


@app.command()
def ui(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Write missing runs, start MLflow's user interface, and print links to the newest searches; Ctrl-C stops it."""
    require_module("mlflow")
    uri = mlflow_tracking_uri(ctx.obj)
    if uri.startswith(("http://", "https://")):
        raise RecordError(f"{hide_passwords(uri)} is an MLflow server; open it in a browser")
    _require_free(host, port)
    level = os.environ.get("MLFLOW_LOGGING_LEVEL", "WARNING")  # read before `_sync`, which changes the variable
    _sync(ctx.obj, uri)
    _print_views(ctx.obj, uri, f"http://{f'[{host}]' if ':' in host else host}:{port}")
    sys.stdout.flush()
    # Pass the URI in the environment: it may contain a password, and every user can read the arguments of a process.
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_ARTIFACTS_DESTINATION": (ctx.obj.home / "mlflow-artifacts").as_uri(),
        "MLFLOW_LOGGING_LEVEL": level,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Set this variable, because MLflow does not pass Python's option -P on to its server.
        "PYTHONSAFEPATH": "1",
    }
    program = python_command("-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1")
    # By default, uvicorn puts the working folder first on `sys.path`.
    program += ["--uvicorn-opts", f"--app-dir {os.devnull}"]
    raise typer.Exit(_serve(program, environment))


def _print_views(settings: Settings, uri: str, base_url: str) -> None:
    from eatnas_daemon.mlflow.sync import list_views
    from eatnas_db.database.engine import open_record

    views = list_views(open_record(settings.database_url), uri, base_url)
    for name, view in list(views.items())[:LINKED_SEARCHES]:
        print_sentence(f"{name} by {view.columns}: {view.url}")


def _serve(program: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run MLflow's server until it ends or this process is interrupted, and return the exit status."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
        return server.wait()
    except KeyboardInterrupt:
        # On Ctrl-C, the terminal interrupts all processes. MLflow then interrupts its web server again, which prints a
        # useless traceback.
        with suppress(subprocess.TimeoutExpired):
            server.communicate(timeout=INTERRUPT_SECONDS)
        _stop(server)
        return 0


def _stop(server: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        processes = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for send in (psutil.Process.terminate, psutil.Process.kill):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    send(process)
            _, processes = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    server.wait()


def mlflow_tracking_uri(settings: Settings) -> str:
    """Return the URI of MLflow's store. Raises `EatnasError` if the URI cannot be parsed."""
    uri = settings.tracking_uri(os.environ)
    if "://" in uri:
        require_parsable_url(uri, "MLFLOW_TRACKING_URI")
    return uri


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ConflictError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from None


def _sync(settings: Settings, uri: str) -> None:
    from eatnas_daemon.mlflow.sync import sync
    from eatnas_db.database.engine import open_record

    written = sync(open_record(settings.database_url), uri)
    print_sentence(f"wrote {written} runs to {hide_passwords(uri)}")
