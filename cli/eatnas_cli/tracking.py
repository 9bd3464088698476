"""MLflow: a view of the record for those who compare runs there."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from eatnas_db.errors import RecordError
from eatnas_db.settings import Settings

mlflow_app = typer.Typer(no_args_is_help=True, help="The record as MLflow shows it.")


@mlflow_app.command("sync")
def sync_runs(ctx: typer.Context) -> None:
    """Write what MLflow lacks; safe to repeat."""
    uri = _tracking_uri(ctx.obj)
    typer.echo(f"{_synced(ctx.obj, uri)} runs written to {uri}")


@mlflow_app.command()
def ui(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Sync, then open MLflow's own pages on the store."""
    uri = _tracking_uri(ctx.obj)
    typer.echo(f"{_synced(ctx.obj, uri)} runs written to {uri}")
    if uri.startswith(("http://", "https://")):
        raise RecordError(f"{uri} is an MLflow server already; open it in a browser")
    sys.stdout.flush()
    program = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    os.execv(sys.executable, [*program, "--host", host, "--port", str(port)])  # noqa: S606


def _tracking_uri(settings: Settings) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or settings.mlflow_uri


def _synced(settings: Settings, uri: str) -> int:
    from eatnas_daemon.tracking import sync
    from eatnas_db.database import open_record

    return sync(open_record(settings.database_url), uri)
