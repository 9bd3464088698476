"""`search reevaluate` and `search final`: train the best candidates of a search again."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer
from sqlalchemy import Connection

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import SearchName
from eatnas_cli.sentences import print_note, print_sentence
from eatnas_cli.values import count_of
from eatnas_daemon.data_sets import FinalDataDescription, describe_final_data
from eatnas_daemon.devices.capacity import count_usable_gpus
from eatnas_daemon.devices.monitor import probe_once
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import parse_options
from eatnas_daemon.search_creation import parse_overrides
from eatnas_db.database.engine import read_connection, write_record
from eatnas_db.domain.final_recipe import FINAL_PRESETS
from eatnas_db.domain.final_weights import list_weight_sources
from eatnas_db.domain.integers import MAX_BIGINT
from eatnas_db.domain.spec_final import parse_final
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.searches.retrain import create_final_training, create_reevaluation, require_evolution
from eatnas_db.settings import Settings

app = new_app()

TopOption = Annotated[
    int, typer.Option(min=1, max=1000, help="Number of best candidates to train if no --candidate is given.")
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000,
        help="Number of epochs of each training. Default: `final.epochs` of the spec, or 4 times `training.epochs`.",
    ),
]
FinalKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the section `final`, for example ema_decay=0.999. Repeatable.",
    ),
]


@app.command()
def reevaluate(
    ctx: typer.Context,
    name: SearchName,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Number of best candidates to train.")] = 4,
    seeds: Annotated[
        int,
        typer.Option(min=1, max=100, help="Number of trainings of each candidate, each with a new seed of its own."),
    ] = 3,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs of each training. Default: as in the search.")
    ] = None,
) -> None:
    """Re-evaluate the best candidates: train each from scratch with new seeds, in a separate search."""
    created = write_record(
        ctx.obj.database_url,
        lambda connection: create_reevaluation(connection, name, top=top, seeds=seeds, epochs=epochs, now=time.time()),
    )
    print_sentence(
        f"search {created} created; `eatnas-db run {created}` trains it, "
        f"`eatnas-db query best {name}` shows the results"
    )


@app.command()
def final(
    ctx: typer.Context,
    name: SearchName,
    candidates: Annotated[
        list[int] | None,
        typer.Option(
            "--candidate", min=1, max=MAX_BIGINT, metavar="ID", help="Id of a candidate to train. Repeatable."
        ),
    ] = None,
    top: TopOption = 1,
    epochs: EpochsOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Preset of the recipe: eatnas-paper or strong. Default: `final.preset` of the spec.",
            autocompletion=lambda: list(FINAL_PRESETS),
        ),
    ] = None,
    changes: FinalKeys = None,
    weights_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SEARCH[/CANDIDATE]",
            help="Start from the weights of this final model, which must have the same architecture. With "
            "`none`, start from random weights. Default: `final.from` of the spec.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, max=100, help="Number of trainings of each candidate, each with a new seed of its own."),
    ] = 3,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also train candidates that were already tested with the same settings."),
    ] = False,
) -> None:
    """Train the best candidates longer, on training and validation images, and evaluate them once on the test set.

    The trainings form a separate search and have new seeds. They start from scratch, or from the weights that --from
    names. No other command reads the test set.
    """
    settings: Settings = ctx.obj
    options = {"preset": preset, "from": weights_from}
    changed = {key: value for key, value in options.items() if value is not None}
    keys = parse_final(changed | parse_overrides(changes or (), form="key=value"))
    with read_connection(settings.database_url) as connection:
        source = get_search(connection, name)
    require_evolution(source, "trained as final models")
    # Read the data set first, to report a missing test part before days of training.
    description = describe_final_data(settings.locate_data(source.spec["data"]))

    def create(connection: Connection) -> SearchRecord:
        tests = create_final_training(
            connection,
            name,
            candidate_ids=candidates or (),
            top=top,
            seeds=seeds,
            epochs=epochs,
            final=keys,
            again=again,
            now=time.time(),
        )
        return get_search(connection, tests)

    row = write_record(settings.database_url, create)
    _note_shortage(row.spec["training"].get("devices", 1))
    print_sentence(
        f"search {row.name} created: {_describe_trainings(row, description)}; "
        f"`eatnas-db run {row.name}` trains them, `eatnas-db query best {name}` shows the results"
    )


def _describe_trainings(row: SearchRecord, data: FinalDataDescription) -> str:
    sources = list(dict.fromkeys(map(str, list_weight_sources(row.spec["training"]))))
    start = f", starting from the weights of {', '.join(sources)}" if sources else ""
    return (
        f"{count_of(row.born, 'training')} of {count_of(row.spec['training']['epochs'], 'epoch')} on "
        f"{data.train_images} images{start}, each evaluated once on {data.test_images} test images"
    )


def _note_shortage(devices: int) -> None:
    """Print a note if this machine cannot give each process of a training its own core."""
    if devices > 1:
        snapshots = probe_once(Nvml())
        gpus = count_usable_gpus(snapshots, parse_options(snapshots, environment=os.environ))
        if (note := describe_shortage(devices, gpus=gpus, cores=snapshots[-1].cores)) is not None:
            print_note(note)


def describe_shortage(devices: int, *, gpus: int, cores: int) -> str | None:
    """Return the reason why this machine cannot give each process of a training its own core, or None if it can."""
    if gpus:
        return (
            f"final.devices={devices} works on CPUs only, but a daemon on this machine uses the GPUs; start the "
            "daemon with --devices cpu"
        )
    if cores < devices:
        return (
            f"final.devices={devices} needs {devices} cores, but this machine has {cores}; processes will share cores"
        )
    return None
