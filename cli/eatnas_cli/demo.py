"""`demo`: run a small search, its re-evaluation and a transfer, and export the winner."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import typer

from eatnas_cli.export import describe_file
from eatnas_cli.init import make_home
from eatnas_cli.lazy_group import new_app
from eatnas_cli.lineage_tree import print_lineage_tree
from eatnas_cli.predict import print_predictions
from eatnas_cli.query.family import read_lineage
from eatnas_cli.query.fingerprint import print_fingerprint
from eatnas_cli.query.ranking import print_best
from eatnas_cli.run import run_search
from eatnas_cli.sentences import print_sentence
from eatnas_cli.tables import terminal_width
from eatnas_daemon.daemon_options import DaemonOptions
from eatnas_daemon.model_export import export_model
from eatnas_daemon.search_creation import TransferSource, create_search_from_spec
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.paging import Page
from eatnas_db.queries.searches import list_searches
from eatnas_db.settings import Settings

app = new_app()

DEMO_SMALL: Final[dict[str, Any]] = {
    "seed": 1,
    "space": "eatnas-tiny",
    "data": {"name": "digits", "train_images": 500},
    "training": {"epochs": 6, "batch_size": 32, "augment": "none"},
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "objective": {"max_mult_adds": 1_500_000},
    "budget": {"candidates": 14},
    "reevaluation": {"top": 2, "seeds": 2},
}
DEMO_LARGE: Final[dict[str, Any]] = {
    "seed": 1,
    "space": {
        "name": "demo-large",
        "stem_channels": 12,
        "strides": [1, 1, 2, 1, 1, 2, 1],
        "base": [16, 24, 32, 64, 96, 160, 320],
        "head_channels": 128,
        "multiplier": 0.3,
    },
    "data": {"name": "digits", "train_images": 1_000, "resolution": 16},
    "training": {"epochs": 4, "batch_size": 32, "augment": "none"},
    "evolution": {"population": 6, "tournament": 3, "lag": 4},
    "objective": {"max_mult_adds": 10_000_000},
    "transfer": {"blocks": 2},
    "budget": {"candidates": 10},
    "reevaluation": {"top": 0},
}
DIGIT: Final = (
    "007fd100",
    "08d6f400",
    "021dd000",
    "002fb100",
    "0001cc10",
    "00001a80",
    "00845e90",
    "007dd900",
)
"""An image of a 3 from scikit-learn's digits. Each character is a pixel in one of 16 shades of grey."""


@app.command()
def demo(ctx: typer.Context) -> None:
    """Run EAT-NAS from start to end on scikit-learn's digits and query the results.

    Run a search on a few small images, re-evaluate its best candidates, and transfer the winner to a search on
    more and larger images with wider networks. Export the best network and classify an image with it.
    """
    settings: Settings = ctx.obj
    make_home(settings)
    with read_connection(settings.database_url) as connection:
        taken = {row.name for row in list_searches(connection)}
    number = next(n for n in itertools.count(1) if not {f"demo-small-{n}", f"demo-large-{n}"} & taken)
    small, large = f"demo-small-{number}", f"demo-large-{number}"
    typer.echo("A small task: 500 digits of 8x8 pixels")
    create_search_from_spec(settings, {"name": small, **DEMO_SMALL}, slots=2)
    _run_to_end(settings, small)
    typer.echo("\nIts best networks, trained again from scratch with fresh seeds (the re-evaluation)")
    print_best(settings, small, Page(limit=3))
    typer.echo(
        "\nThe large task: 1,000 digits at 16x16 pixels, wider networks; starts with the winner and perturbations of it"
    )
    create_search_from_spec(settings, {"name": large, **DEMO_LARGE}, slots=2, source=TransferSource(small))
    _run_to_end(settings, large)
    print_best(settings, large, Page(limit=5))
    typer.echo("\nThe ancestors of the best candidate, across both searches")
    family = read_lineage(settings, large)
    if not print_lineage_tree(family, terminal_width()):
        print_lineage_tree(family)
    typer.echo("\nThe fingerprint of the large search, equal on all machines with the same kind of CPU")
    print_fingerprint(settings, large)
    _export_best(settings, large)
    typer.echo(
        f"\nTry next:\n  eatnas-db query quality {large}\n"
        f"  eatnas-db search extend {large} --candidates 16\n  eatnas-db mlflow ui"
    )


def _export_best(settings: Settings, name: str) -> None:
    """Export the best network of a search into the home, and classify a digit with the exported network."""
    output, image = settings.home / name, settings.home / "digit.png"
    typer.echo(
        "\nThe best network for other programs, read back and verified:\n"
        f"  eatnas-db export {name} --format safetensors --format pt2 -o {output}"
    )
    files = export_model(settings, name, ["safetensors", "pt2"], output, force=True)
    for file in files:
        print_sentence(describe_file(file))
    _write_digit(image)
    typer.echo(f"\nAn image of a 3, classified with this network:\n  eatnas-db predict {files[0].file} {image}")
    print_predictions(Path(files[0].file), [image], top=3)


def _write_digit(file: Path) -> None:
    from PIL import Image  # imported here, because most commands do not need Pillow

    pixels = bytes(int(shade, 16) * 17 for row in DIGIT for shade in row)
    Image.frombytes("L", (8, 8), pixels).save(file)


def _run_to_end(settings: Settings, name: str) -> None:
    code = run_search(settings, name, DaemonOptions(slots=2))
    if code != 0:
        raise typer.Exit(code)
