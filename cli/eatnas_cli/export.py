"""`export`: write a trained model as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.mlflow import mlflow_tracking_uri
from eatnas_cli.sentences import print_sentence
from eatnas_daemon.model_export import FORMATS, ExportedFile, Publish, export_model, parse_formats
from eatnas_db.database.engine import open_record
from eatnas_db.errors import EatnasError
from eatnas_db.queries.trained_models import TrainedModel
from eatnas_db.settings import Settings
from eatnas_db.urls import hide_passwords

app = new_app()


@app.command()
def export(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE|SEARCH",
            help="Id of a candidate, or name of a search. A name selects the best final model of the "
            "search or, if it has none, its best candidate.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File to write. With several formats, each file gets the suffix of its format.",
        ),
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="/".join(FORMATS),
            help="Format of the file. Repeatable. Default: the format with the suffix of PATH, or safetensors.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    to_mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Also log the network to MLflow, in the run of the candidate.")
    ] = False,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also log the network to MLflow and register it under this name.")
    ] = None,
) -> None:
    """Write a trained model as files that other programs read, and verify each file against the checkpoint."""
    try:
        chosen = parse_formats(formats or (), output)
    except EatnasError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from None
    publish = _mlflow_publisher(ctx.obj, register) if to_mlflow or register is not None else None
    for file in export_model(ctx.obj, model, chosen, output, force=force, publish=publish):
        print_sentence(describe_file(file))


def _mlflow_publisher(settings: Settings, register: str | None) -> Publish:
    """Return a function that logs an exported module to MLflow and prints its URI."""
    uri = mlflow_tracking_uri(settings)

    def publish(model: TrainedModel, module: Path, weights: Path) -> None:
        # MLflow takes seconds to load.
        from eatnas_daemon.mlflow.models import log_model

        engine = open_record(settings.database_url)
        logged = log_model(engine, uri, model, module=module, weights=weights, register=register)
        registered = f", registered as {register} version {logged.version}" if logged.version else ""
        print_sentence(f"logged {logged.uri} to {hide_passwords(uri)}{registered}")

    return publish


def describe_file(file: ExportedFile) -> str:
    """Return the line that reports a written file."""
    return (
        f"wrote {file.file} ({file.bytes:,} bytes): accuracy {file.accuracy:.4f} on the validation images, "
        f"largest difference of a logit {file.difference:.1g}"
    )
