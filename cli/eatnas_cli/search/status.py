"""`search show`: show the status of a search."""

from __future__ import annotations

from dataclasses import asdict

import typer

from eatnas_cli.host_sentences import describe_hold, describe_lost_hosts
from eatnas_cli.layout_options import width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import FITTING, Format, Layout, show_one
from eatnas_daemon.search_status import current_status, is_supervised
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.engine import read_connection
from eatnas_db.domain.states import SearchKind
from eatnas_db.errors import PluginError
from eatnas_db.plugins import PluginIdentity
from eatnas_db.queries.final_models import count_test_evaluations
from eatnas_db.queries.holds import list_holds
from eatnas_db.queries.hosts import list_hosts
from eatnas_db.queries.progress import get_progress
from eatnas_db.queries.rungs import count_rungs
from eatnas_db.queries.searches import SearchRecord, get_search

app = new_app()


def describe_missing_program(search: SearchRecord) -> str | None:
    """Return the reason why this machine cannot run the training program of a search, or None if it can."""
    program = search.spec["training"].get("program")
    if program is None:
        return None
    try:
        PluginIdentity.from_json(program).require_installed()
    except PluginError as error:
        return str(error)
    return None


@app.command("show")
@takes_options(layout=width_options)
def show_search(
    ctx: typer.Context,
    name: SearchName,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Show the status, the counters and the spec of a search."""
    with read_connection(ctx.obj.database_url) as connection:
        row = get_search(connection, name)
        looks = count_test_evaluations(connection, row.id)
        progress = asdict(get_progress(connection, row.id))
        status = current_status(row, is_supervised(ctx.obj, connection))
        lost = (
            describe_lost_hosts(list_hosts(connection)) if row.finished_at is None and is_postgresql(connection) else []
        )
        holds = list_holds(connection, row.id)
        rungs = count_rungs(connection, row.id, row.spec) if row.kind == SearchKind.EVOLUTION else ()
    if lost:
        status = "; ".join([status, *lost])
    facts = {"test_looks": looks, "lag": row.lag, "data_digest": row.data_digest, "spec": row.spec}
    if row.objectives:
        facts = {"objectives": ", ".join(objective.describe() for objective in row.objectives), **facts}
    if row.machine_dependence is not None:
        facts = {"machine_dependent": row.machine_dependence, **facts}
    problem = describe_missing_program(row)
    if problem is not None:
        facts = {"problem": problem, **facts}
    if rungs:
        facts["rungs"] = [asdict(rung) for rung in rungs]
    if format is not Format.TABLE:
        facts["holds"] = [asdict(hold) for hold in holds]
    elif holds:
        facts = {"set_aside": "; ".join(describe_hold(hold) for hold in holds), **facts}
    show_one({"name": row.name, "status": status, "ended": row.ended, **progress, **facts}, format, layout=layout)
