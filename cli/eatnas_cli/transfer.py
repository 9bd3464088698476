"""`transfer`: a search that starts with the best candidate of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import PlannedSlots, SpecChanges
from eatnas_cli.search.create import print_created, print_warnings
from eatnas_daemon.search_creation import TransferSource, create_search_from_spec, parse_overrides, read_spec_file
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.events import list_events
from eatnas_db.settings import Settings

app = new_app()


@app.command()
def transfer(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the source search.")],
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="Spec of the new search.")],
    candidate: Annotated[
        int | None, typer.Option(help="Id of the candidate to start with. Default: the best of SOURCE.")
    ] = None,
    changes: SpecChanges = None,
    force: Annotated[bool, typer.Option("--force", help="Accept a SOURCE that is not finished.")] = False,
    slots: PlannedSlots = None,
) -> None:
    """Create a search that starts with the best candidate of another search and perturbations of it (EAT-NAS)."""
    created = create_search_from_spec(
        ctx.obj,
        read_spec_file(spec),
        overrides=parse_overrides(changes or ()),
        slots=slots,
        source=TransferSource(source, candidate, force),
    )
    print_warnings(created.warnings)
    _print_initial_population(ctx.obj, created.id)
    print_created(ctx.obj, created.name, slots)


def _print_initial_population(settings: Settings, search_id: int) -> None:
    """Print which candidates a transferred search begins with."""
    with read_connection(settings.database_url) as connection:
        for kind in ("transferred", "survivors_taken"):
            for event in list_events(connection, search_id, kind=kind):
                typer.echo(event.words)
