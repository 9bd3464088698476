"""`transfer`: create a search that starts with the best candidate of another search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.advice import advise_on, print_advice
from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import FormatOption, PlannedSlots, SpecChanges
from eatnas_cli.printing import Format, show_one
from eatnas_cli.search.create import print_created, print_warnings
from eatnas_cli.sentences import print_sentence
from eatnas_daemon.search_creation import (
    START_EVENTS,
    PlannedTransfer,
    TransferSource,
    create_search_from_spec,
    parse_overrides,
    plan_transfer,
    read_spec_file,
)
from eatnas_db.database.engine import read_connection
from eatnas_db.errors import ConflictError
from eatnas_db.queries.events import list_events
from eatnas_db.settings import Settings

app = new_app()


@app.command()
def transfer(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the source search.")],
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="Spec of the new search.")],
    candidate: Annotated[
        int | None, typer.Option(help="Id of the candidate to start with. Default: the best candidate of SOURCE.")
    ] = None,
    changes: SpecChanges = None,
    force: Annotated[bool, typer.Option("--force", help="Accept a SOURCE that is not finished.")] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print the first candidates and the possible sources, without creating the search."
        ),
    ] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002
    slots: PlannedSlots = None,
) -> None:
    """Create a search that starts with the best candidate of another search and its perturbations (EAT-NAS)."""
    if format is not Format.TABLE and not plan:
        raise ConflictError("--format works only with --plan; add --plan, or remove --format")
    origin, overrides = TransferSource(source, candidate, force), parse_overrides(changes or ())
    if plan:
        planned = plan_transfer(ctx.obj, read_spec_file(spec), overrides=overrides, slots=slots, source=origin)
        _print_plan(ctx.obj, planned, spec, changes or (), format)
        return
    created = create_search_from_spec(ctx.obj, read_spec_file(spec), overrides=overrides, slots=slots, source=origin)
    print_warnings(created.warnings)
    _print_initial_population(ctx.obj, created.id)
    print_created(ctx.obj, created.name, slots)


def _print_initial_population(settings: Settings, search_id: int) -> None:
    """Print the first candidates of a transferred search."""
    with read_connection(settings.database_url) as connection:
        for kind in START_EVENTS:
            for event in list_events(connection, search_id, kind=kind):
                print_sentence(event.words)


def _print_plan(
    settings: Settings,
    planned: PlannedTransfer,
    file: Path,
    changes: Sequence[str],
    format: Format,  # noqa: A002
) -> None:
    advice = advise_on(settings, planned.spec, planned.task, planned.data, file, changes)
    if format is not Format.TABLE:
        show_one({"start": list(planned.start), **asdict(advice)}, format)
        return
    for sentence in planned.start:
        print_sentence(sentence)
    print_advice(advice)
    print_sentence("nothing was created; the same command without --plan creates the search")
