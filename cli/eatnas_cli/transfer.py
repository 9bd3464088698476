"""`transfer`, `search rescore` and `search final`: from a small search to a large one, and what its best are worth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.record import SearchName, changing, viewing
from eatnas_cli.search import SlotsPlanned, search_app, tell_created, tell_doubts
from eatnas_db.settings import Settings


def transfer(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the small search.")],
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The large search.")],
    candidate: Annotated[int | None, typer.Option(help="The basic architecture; default: the best of SOURCE.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="SOURCE or its yardstick need not be finished.")] = False,
    slots: SlotsPlanned = None,
) -> None:
    """Create a search that begins with the best of another and with small changes of it (EAT-NAS)."""
    from eatnas_daemon.search_creation import TransferSource, create_search_from_spec, parse_overrides, read_spec_file

    created = create_search_from_spec(
        ctx.obj,
        read_spec_file(spec),
        overrides=parse_overrides(changes or ()),
        slots=slots,
        source=TransferSource(source, candidate, force),
    )
    tell_doubts(created.warnings)
    _print_start(ctx.obj, created.id)
    tell_created(ctx.obj, created.name, slots)


def _print_start(settings: Settings, search_id: int) -> None:
    """Print which candidates a transferred search begins with."""
    from eatnas_db.queries.events import list_events

    with viewing(settings) as connection:
        for kind in ("transferred", "survivors_taken"):
            for event in list_events(connection, search_id, kind=kind):
                typer.echo(event.words)


@search_app.command()
def rescore(
    ctx: typer.Context,
    name: SearchName,
    top: Annotated[int, typer.Option(min=1, max=1000, help="So many of the best.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each.")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each training; default: as in the search.")] = None,
) -> None:
    """Measure the best again: each trained from scratch with fresh seeds, in a search of its own."""

    from eatnas_db.searches.retrain import create_reevaluation

    with changing(ctx.obj) as connection:
        yardstick = create_reevaluation(connection, name, top=top, seeds=seeds, epochs=epochs, now=time.time())
    typer.echo(
        f"search {yardstick} created; `eatnas-db run {yardstick}` trains it, `eatnas-db query best {name}` shows it"
    )


@search_app.command()
def final(
    ctx: typer.Context,
    name: SearchName,
    candidates: Annotated[
        list[int] | None,
        typer.Option("--candidate", min=1, max=2**63 - 1, metavar="ID", help="Test this one; may be repeated."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="So many of the winners, where none is named.")] = 1,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Of each training; default: 4 times the search's.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each.")] = 3,
    again: Annotated[bool, typer.Option("--again", help="Even if tested by this recipe before.")] = False,
) -> None:
    """Train the winners longer, on training and validation images, and look once at the test set.

    In a search of its own, from scratch with fresh seeds. It is the only command that reads the test set.
    """
    from eatnas_daemon.data_sets import data_with_root, describe_final_data
    from eatnas_db.queries.searches import get_search
    from eatnas_db.searches.retrain import create_final_training

    settings: Settings = ctx.obj
    with viewing(settings) as connection:
        data = get_search(connection, name).spec["data"]
    # Whether there is a test part, before days of training.
    found = describe_final_data(data_with_root(settings, data))
    with changing(settings) as connection:
        tests = create_final_training(
            connection,
            name,
            candidate_ids=candidates or (),
            top=top,
            seeds=seeds,
            epochs=epochs,
            again=again,
            now=time.time(),
        )
        row = get_search(connection, tests)
    typer.echo(
        f"search {tests} created: {row.born} trainings of {row.spec['training']['epochs']} epochs on "
        f"{found.train_images} images, then one look each at {found.test_images} test images; "
        f"`eatnas-db run {tests}` trains them, `eatnas-db query best {name}` shows what came out"
    )
