"""`search list` and `search show`: the status of searches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import typer

from eatnas_cli.layout_options import layout_options, width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import FITTING, Format, Layout, show, show_one
from eatnas_cli.sentences import print_sentence
from eatnas_daemon.search_progress import current_status, is_supervised
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.engine import read_connection
from eatnas_db.domain.states import SearchKind
from eatnas_db.errors import PluginError
from eatnas_db.plugins import PluginIdentity
from eatnas_db.queries.final_models import count_test_evaluations
from eatnas_db.queries.holds import RecordedHold, list_holds
from eatnas_db.queries.hosts import RecordedHost, list_hosts
from eatnas_db.queries.progress import get_progress
from eatnas_db.queries.rungs import count_rungs
from eatnas_db.queries.searches import SearchRecord, SearchSummary, get_search, list_search_summaries
from eatnas_report.formats import format_time

app = new_app()


@app.command("list")
@takes_options(layout=layout_options)
def list_searches(
    ctx: typer.Context,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """List all searches, the newest last."""
    with read_connection(ctx.obj.database_url) as connection:
        rows, supervised = list_search_summaries(connection), is_supervised(ctx.obj, connection)
    print_summaries(rows, supervised, format, layout)


def print_summaries(
    rows: Sequence[SearchSummary],
    supervised: bool,
    format: Format,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Print a line for each search: its status, the number of its settled candidates, and its best fitness."""
    lines = [{**asdict(row), "status": current_status(row, supervised)} for row in rows]
    if format is not Format.TABLE:
        show(lines, ("name", "status", "settled", "budget", "best", "created_at"), format, layout=layout)
    elif not rows:
        print_sentence("no searches yet; `eatnas-db search create SPEC.yaml` creates one")
    else:
        for line in lines:
            line["settled"] = f"{line['settled']}/{line['budget']}"
        show(lines, ("name", "status", "settled", "best", "created_at"), layout=layout)


def describe_lost_hosts(hosts: Sequence[RecordedHost], now: float | None = None) -> list[str]:
    """Describe in a sentence each host that disappeared without a stop, and what happens to its candidates."""
    sentences = []
    for host in hosts:
        if host.lost:
            minutes = max(0.0, (time.time() if now is None else now) - host.seen_at) / 60
            what = "will continue on other hosts within a minute" if host.in_training else "continued on other hosts"
            sentences.append(f"host {host.name} has sent no heartbeat for {minutes:.0f} min; its candidates {what}")
    return sentences


def describe_hold(hold: RecordedHold) -> str:
    """Describe a hold: its host, its beginning, its reason, and the time of the next try."""
    since, retry = format_time(hold.since_at), format_time(hold.retry_at)
    return f"host {hold.host} has set {hold.search} aside since {since} and tries again at {retry}: {hold.reason}"


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
