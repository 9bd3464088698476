"""`mlflow …`: write searches to MLflow and start its user interface."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.interpreter import python_command
from eatnas_db.settings import Settings
from eatnas_db.urls import hide_passwords, require_parsable_url

app = new_app(no_args_is_help=True)


@app.command("sync")
def sync_runs(ctx: typer.Context) -> None:
    """Write the runs that MLflow does not have yet; safe to repeat."""
    _sync(ctx.obj, _tracking_uri(ctx.obj))


@app.command()
def ui(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Sync, then start MLflow's user interface."""
    uri = _tracking_uri(ctx.obj)
    if uri.startswith(("http://", "https://")):
        raise RecordError(f"{hide_passwords(uri)} is an MLflow server; open it in a browser")
    _require_free(host, port)
    _sync(ctx.obj, uri)
    sys.stdout.flush()
    # The URI of the store may contain a password, and every user can read arguments.
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_ARTIFACTS_DESTINATION": (ctx.obj.home / "mlflow-artifacts").as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # MLflow starts its server with options of its own.
        "PYTHONSAFEPATH": "1",
    }
    program = python_command("-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1")
    # By default uvicorn imports modules from the working folder first.
    program += ["--uvicorn-opts", f"--app-dir {os.devnull}"]
    os.execve(program[0], program, environment)  # noqa: S606


def _tracking_uri(settings: Settings) -> str:
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
    typer.echo(f"wrote {written} runs to {hide_passwords(uri)}")
