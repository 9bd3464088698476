"""`predict`: classify images with an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import Format, show
from eatnas_daemon.model_export import predict_images

app = new_app()


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="PATH", help="A file that `export` wrote, in any format.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, max=1000, help="Number of classes to print for each image.")] = 3,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Classify images with an exported model and print the most probable classes."""
    print_predictions(model, images, top, format)


def print_predictions(model: Path, images: list[Path], top: int, format: Format = Format.TABLE) -> None:  # noqa: A002
    """Print the `top` most probable classes of each image. Raises `EatnasError`."""
    show(predict_images(model, images, top), ("image", "rank", "label", "probability"), format)
