"""`export`: write a trained model as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_daemon.model_export import FORMATS, ExportedFile, export_model, parse_formats
from eatnas_db.errors import EatnasError

app = new_app()


@app.command()
def export(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE|SEARCH",
            help="Id of a candidate, or name of a search: its best final model, else its best candidate.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="PATH", help="File to write. With several formats each adds its own suffix."
        ),
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="/".join(FORMATS),
            help="Format of the file. Repeatable. Default: what the suffix of PATH says, else safetensors.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Write a trained model as files that other programs read, each verified against its checkpoint."""
    try:
        chosen = parse_formats(formats or (), output)
    except EatnasError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from None
    for file in export_model(ctx.obj, model, chosen, output, force=force):
        typer.echo(describe_file(file))


def describe_file(file: ExportedFile) -> str:
    """Return the line that reports a written file."""
    return (
        f"wrote {file.file} ({file.bytes:,} bytes): accuracy {file.accuracy:.4f} on the validation images, "
        f"largest difference of a logit {file.difference:.1g}"
    )
