"""`search create`: create a search from a spec."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import PlannedSlots, SpecChanges, SpecFile
from eatnas_cli.sentences import print_note, print_sentence
from eatnas_cli.values import count_of
from eatnas_daemon.search_creation import create_search_from_spec, parse_overrides, read_spec_file
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.searches import get_search
from eatnas_db.settings import Settings

app = new_app()


@app.command()
def create(ctx: typer.Context, spec: SpecFile, changes: SpecChanges = None, slots: PlannedSlots = None) -> None:
    """Validate a spec and create its search with the initial population."""
    overrides = parse_overrides(changes or ())
    created = create_search_from_spec(ctx.obj, read_spec_file(spec), overrides=overrides, slots=slots)
    print_warnings(created.warnings)
    print_created(ctx.obj, created.name, slots)


def print_warnings(warnings: Sequence[str]) -> None:
    """Print the warnings about a spec on stderr."""
    for warning in warnings:
        print_note(warning)


def print_created(settings: Settings, name: str, slots: int | None) -> None:
    """Print the command that starts a new search, and the lag if the spec does not set it."""
    print_sentence(f"search {name} created; `eatnas-db run {name}` starts it")
    with read_connection(settings.database_url) as connection:
        row = get_search(connection, name)
    if row.spec["evolution"]["lag"] is None:
        slot_text = count_of(slots, "slot") if slots else "this machine"
        print_sentence(
            f"at most {row.lag} of its candidates train at the same time, because its evolution.lag is {row.lag} "
            f"(chosen for {slot_text} and a population of {row.population}); a different lag gives a different history"
        )
    elif slots is not None:
        print_note(f"--slots has no effect, because the spec sets evolution.lag to {row.lag}")
