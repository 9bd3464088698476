"""`query …` and `candidate …`: questions to the record, answered from SQL."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eatnas_cli.printing import LONG, Format, lineage_tree, show, show_one
from eatnas_cli.record import SearchName as Name
from eatnas_cli.record import Written, changing, viewing
from eatnas_db.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from eatnas_db.queries.lineage import LineageEntry
    from eatnas_db.queries.paging import Page
    from eatnas_db.queries.population import PopulationMember
    from eatnas_db.queries.ranking import RankedCandidate

query_app = typer.Typer(help="Ask the record.", no_args_is_help=True)
candidate_app = typer.Typer(help="Look at one candidate, or change what becomes of it.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(help="Number of a candidate, as `query best` lists it.")]
Picture = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it; .svg and .pdf do as well.")]
Block = Annotated[int | None, typer.Option(min=1, help="In this block alone.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Show so many at most.")]
Offset = Annotated[int, typer.Option(min=0, help="Leave out so many first.")]
Sort = Annotated[str | None, typer.Option(metavar="COLUMN", help="Order by a column; -COLUMN: the largest first.")]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="COLUMN and =, !=, <, <=, > or >= and a value; may be repeated."),
]


class Over(StrEnum):
    """What a curve runs over."""

    BIRTHS = "births"
    COMPUTE = "compute"


class Measured(StrEnum):
    """What searches are compared by."""

    QUALITY = "quality"
    MEAN = "mean"
    BEST = "best"


class Cost(StrEnum):
    """What accuracy is weighed against."""

    MULT_ADDS = "mult_adds"
    PARAMS = "params"


@query_app.command()
def best(
    ctx: typer.Context,
    name: Name,
    top: Annotated[int, typer.Option("--top", "--limit", min=1, max=1_000_000, help="How many.")] = 10,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """The fittest candidates of a search, with what the yardstick and the test set said of them."""
    from eatnas_db.queries.ranking import rank_candidates

    with viewing(ctx.obj) as connection:
        rows = rank_candidates(connection, _search_id(connection, name), _page(top, offset, sort, where))
    measured: tuple[str, ...] = ()
    for measure in ("yardstick", "test"):
        if format is not Format.TABLE or any(getattr(row, f"{measure}_seeds") for row in rows):
            measured += (measure, f"{measure}_spread", f"{measure}_seeds")
    inherited = _inherited(rows, format)
    deviating = ("deviation",) if format is not Format.TABLE or any(row.deviation for row in rows) else ()
    columns = ("id", "birth", "fitness", *measured, "params", "mult_adds", "origin", "parent_birth", *inherited)
    show(rows, (*columns, *deviating, "code"), format)


@query_app.command()
def lineage(
    ctx: typer.Context,
    name_or_id: Annotated[str, typer.Argument(help="A candidate's number, or a search's name for its best.")],
    picture: Picture = None,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Where a candidate comes from: every mutation from its root on."""
    from eatnas_db.queries.lineage import get_lineage

    with viewing(ctx.obj) as connection:
        rows = get_lineage(connection, _candidate_id(connection, name_or_id))
    _show_family(rows, format, picture, _page(limit, offset, sort, where))


@query_app.command()
def descendants(
    ctx: typer.Context,
    candidate: Id,
    picture: Picture = None,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """What came of a candidate: its children, theirs, and so on."""
    from eatnas_db.queries.lineage import list_descendants

    with viewing(ctx.obj) as connection:
        rows = list_descendants(connection, candidate)
    _show_family(rows, format, picture, _page(limit, offset, sort, where))


@query_app.command()
def population(
    ctx: typer.Context,
    name: Name,
    at: Annotated[int | None, typer.Option(min=0, help="After this step; default: now.")] = None,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Who lives in the population, now or after any step."""
    from eatnas_db.queries.paging import select_page
    from eatnas_db.queries.population import list_population

    with viewing(ctx.obj) as connection:
        rows = list_population(connection, _search_id(connection, name), at)
    columns = ("id", "birth", "joined", "left", "fitness", "params", "mult_adds", "origin", *_inherited(rows, format))
    show(select_page(rows, _page(limit, offset, sort, where)), (*columns, "code"), format)


@query_app.command()
def quality(
    ctx: typer.Context,
    name: Name,
    picture: Picture = None,
    curve: Annotated[bool, typer.Option("--curve", help="Draw mean and best on the terminal.")] = False,
    over: Annotated[Over, typer.Option(help="What the curve runs over.")] = Over.BIRTHS,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """How good the population was after each step."""
    from eatnas_db.queries.quality import list_steps
    from eatnas_db.queries.searches import get_search
    from eatnas_report.plots import MAX_POINTS

    with viewing(ctx.obj) as connection:
        search = get_search(connection, name)
        if curve or picture is not None:
            steps = list_steps(connection, search.id, max_points=MAX_POINTS)
        else:
            steps = list_steps(connection, search.id, page=_page(limit, offset, sort, where))
    if picture is not None:
        from eatnas_report.plots import draw_quality

        draw_quality(picture, name, steps, over_compute=over is Over.COMPUTE)
        typer.echo(f"{picture} drawn")
    elif curve:
        from eatnas_report.terminal import draw_quality_curve

        typer.echo(draw_quality_curve(steps, over_compute=over is Over.COMPUTE))
    else:
        show(steps, ("number", "size", "mean", "spread", "best", "quality", "device_seconds", "at"), format)
    if search.ends_at is not None and search.ended is not None and format is Format.TABLE:
        typer.echo(f"ended: {search.ended}")


@query_app.command()
def compare(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Searches; ratios are to the first one's.")],
    level: Annotated[list[float] | None, typer.Option(help="A level to reach; may be repeated.")] = None,
    by: Annotated[Measured, typer.Option(help="What is compared.")] = Measured.QUALITY,
    alone: Annotated[bool, typer.Option("--alone", help="Leave out what a transferred search's source took.")] = False,
    picture: Picture = None,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """How many device seconds each search took to reach the same quality."""
    from eatnas_db.domain.recipe import INHERITED
    from eatnas_db.queries.compute_curves import list_compute_curves, list_levels_reached
    from eatnas_db.queries.paging import select_page
    from eatnas_db.queries.searches import get_search

    with viewing(ctx.obj) as connection:
        courses = list_compute_curves(connection, names, measure=by.value, alone=alone)
        specs = {name: get_search(connection, name).spec for name in names}
    inheriting = [
        name
        for name, spec in specs.items()
        if INHERITED in (spec["inheritance"]["weights"], spec["transfer"]["weights"])
    ]
    if inheriting and len(specs) > 1:
        typer.echo(
            f"note: scores of {', '.join(inheriting)} have inherited epochs behind them; between searches only "
            "yardsticks compare such (`query best` shows them)",
            err=True,
        )
    if picture is not None:
        from eatnas_report.plots import draw_compute_curves

        draw_compute_curves(picture, courses, by.value)
        typer.echo(f"{picture} drawn")
        return
    rows = select_page(list_levels_reached(courses, level or ()), _page(limit, offset, sort, where))
    show(rows, ("level", "search", "device_seconds", "ratio"), format)


@query_app.command()
def primitives(
    ctx: typer.Context,
    name: Name,
    block: Block = None,
    points: Annotated[int, typer.Option(min=1, max=100, help="At so many steps, evenly spaced.")] = 5,
    picture: Picture = None,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Which values of which block survive: their share of the population over time, and how fit they are.

    The table has a line for each value, and a column for each step; sorted or paged, a line for each step of each.
    """
    from eatnas_db.queries.paging import Page, select_page
    from eatnas_db.queries.primitives import list_primitives

    with viewing(ctx.obj) as connection:
        found = list_primitives(connection, _search_id(connection, name), block, points)
    rows = select_page(found, _page(limit, offset, sort, where))
    if picture is not None:
        from eatnas_report.primitives_plot import draw_primitives

        draw_primitives(picture, name, select_page(found, Page(where=tuple(where or ()))))
        typer.echo(f"{picture} drawn")
    elif format is Format.TABLE and limit is None and not offset and sort is None:
        told, columns = _over_time(rows)
        show(told, columns)
    else:
        show(rows, ("step", "block", "primitive", "value", "members", "share", "mean_fitness"), format)


@query_app.command()
def mutations(
    ctx: typer.Context,
    name: Name,
    block: Block = None,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Which kinds of change paid: how often, and what a child gained on its parent."""
    from eatnas_db.queries.mutations import list_mutation_statistics
    from eatnas_db.queries.paging import select_page

    with viewing(ctx.obj) as connection:
        rows = list_mutation_statistics(connection, _search_id(connection, name), block)
    columns = ("primitive", "before", "after", "children", "scored", "joined", "improved", "mean_gain", "best_gain")
    show(select_page(rows, _page(limit, offset, sort, where)), columns, format)


@query_app.command()
def pareto(
    ctx: typer.Context,
    name: Name,
    cost: Annotated[Cost, typer.Option(help="What accuracy is weighed against.")] = Cost.MULT_ADDS,
    picture: Picture = None,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """The candidates that no other beats at both accuracy and cost."""
    from eatnas_db.queries.paging import select_page
    from eatnas_db.queries.pareto import list_front, list_tradeoffs

    with viewing(ctx.obj) as connection:
        search_id = _search_id(connection, name)
        front = list_front(connection, search_id, cost.value)
        cloud = list_tradeoffs(connection, search_id) if picture is not None else ()
    if picture is not None:
        from eatnas_report.plots import draw_front

        draw_front(picture, name, cost.value, cloud, front)
        typer.echo(f"{picture} drawn")
        return
    rows = select_page(front, _page(limit, offset, sort, where))
    show(rows, ("id", "birth", "accuracy", "fitness", "params", "mult_adds", "origin", "code"), format)


@query_app.command()
def utilisation(
    ctx: typer.Context,
    name: Name,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """What a search took of each slot, how much of the time the slots were at it, and why they were not.

    Paging, order and conditions are for the list of reasons.
    """
    from eatnas_db.queries.paging import select_page
    from eatnas_db.queries.utilisation import get_utilisation

    with viewing(ctx.obj) as connection:
        row = get_utilisation(connection, _search_id(connection, name), time.time())
    idle = select_page(row.idle, _page(limit, offset, sort, where))
    if format is Format.CSV:
        show(idle, ("host", "slot", "device", "cause", "seconds", "share"), format)
    else:
        show_one(replace(row, idle=tuple(idle)), format)


@query_app.command()
def sql(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT; docs/queries.md lists the views.")],
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Show so many rows at most.")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.001, max=86400, help="Seconds that it may take.")] = 30.0,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Ask in SQL. Nothing can be changed this way."""
    from eatnas_db.adhoc_sql import run_query

    answer = run_query(ctx.obj, question, limit=limit, seconds=timeout)
    # Two columns may have one name; a row of names and values has room for one of them.
    columns = [name if name not in answer.columns[:at] else f"{name}_{at}" for at, name in enumerate(answer.columns)]
    show([dict(zip(columns, row, strict=True)) for row in answer.rows], columns, format)
    if answer.truncated:
        typer.echo(f"there is more: these are the first {limit} rows; --limit shows more", err=True)


@query_app.command()
def events(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of a search; default: all.")] = None,
    candidate: Annotated[int | None, typer.Option(help="The story of this candidate alone.")] = None,
    kind: Annotated[str | None, typer.Option(help="Of this kind alone, as JSON names it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many, counted from the newest.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="Leave out so many of the newest.")] = 0,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """What happened lately, the newest last."""
    from eatnas_db.queries.candidates import require_candidate
    from eatnas_db.queries.events import list_events

    with viewing(ctx.obj) as connection:
        if candidate is not None:
            require_candidate(connection, candidate)
        search_id = None if name is None else _search_id(connection, name)
        rows = list_events(connection, search_id, limit, candidate_id=candidate, kind=kind, offset=offset)
    if format is Format.TABLE:
        told = [{**asdict(row), "candidate": row.candidate_id, "what happened": row.words} for row in rows]
        show(told, ("at", *(() if name else ("search",)), "candidate", "birth", "what happened"))
    else:
        show(rows, ("id", "at", "kind", "search", "candidate_id", "birth", "attempt", "words"), format)


@query_app.command()
def failures(
    ctx: typer.Context,
    name: Name,
    limit: Limit = None,
    offset: Offset = 0,
    sort: Sort = None,
    where: Where = None,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """Which attempts failed or were lost, and why."""
    from eatnas_db.queries.failures import list_failures

    with viewing(ctx.obj) as connection:
        rows = list_failures(connection, _search_id(connection, name), _page(limit, offset, sort, where))
    show(rows, ("candidate_id", "birth", "attempt", "state", "failure", "message", "ended_at"), format)


@query_app.command()
def fingerprint(ctx: typer.Context, name: Name, format: Written = Format.TABLE) -> None:  # noqa: A002
    """One line that is equal for equal histories, whenever and wherever they ran."""
    from eatnas_db.queries.fingerprint import get_fingerprint

    with viewing(ctx.obj) as connection:
        answer = get_fingerprint(connection, _search_id(connection, name))
    if format is Format.TABLE:
        typer.echo(answer.sha256)
    else:
        show([answer], ("sha256", "candidates"), format)


@candidate_app.command("show")
def show_candidate(ctx: typer.Context, candidate: Id, format: Written = Format.TABLE) -> None:  # noqa: A002
    """Everything that is known of a candidate."""
    from eatnas_db.queries.candidates import get_candidate

    with viewing(ctx.obj) as connection:
        row = get_candidate(connection, candidate)
    show_one(row, format)


@candidate_app.command()
def logs(ctx: typer.Context, candidate: Id) -> None:
    """What a candidate's trainings wrote on this machine."""
    from eatnas_db.queries.candidates import require_candidate

    with viewing(ctx.obj) as connection:
        require_candidate(connection, candidate)
    file = ctx.obj.logs / f"candidate-{candidate}.log"
    if not file.is_file():
        raise NotFoundError(f"candidate {candidate} has no log at {file}: it has not been trained in this home")
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            typer.echo(line, nl=False)


@candidate_app.command()
def retry(ctx: typer.Context, candidate: Id) -> None:
    """Train a failed candidate again, its failures forgiven."""
    _change(ctx, candidate, "retry")
    typer.echo(f"candidate {candidate} is pending again")


@candidate_app.command()
def cancel(ctx: typer.Context, candidate: Id) -> None:
    """Give up a candidate that waits or trains."""
    _change(ctx, candidate, "cancel")
    typer.echo(f"candidate {candidate} is cancelled")


def _change(ctx: typer.Context, candidate: int, transition: str) -> None:
    from eatnas_db import transitions
    from eatnas_db.queries.candidates import require_candidate

    change = {"retry": transitions.retry, "cancel": transitions.cancel}[transition]
    with changing(ctx.obj) as connection:
        require_candidate(connection, candidate)
        change(connection, candidate, time.time())


def _search_id(connection: Connection, name: str) -> int:
    from eatnas_db.queries.searches import get_search

    return get_search(connection, name).id


def _candidate_id(connection: Connection, name_or_id: str) -> int:
    from eatnas_db.queries.ranking import get_best

    # Digits mean a candidate even where a search is called so; int() refuses thousands of them.
    if name_or_id.isascii() and name_or_id.isdigit() and len(name_or_id) < 20:
        return int(name_or_id)
    best = get_best(connection, _search_id(connection, name_or_id))
    if best is None:
        raise ConflictError(
            f"search {name_or_id!r} has no scored candidate yet; `eatnas-db run {name_or_id}` trains it"
        )
    return best.id


def _page(limit: int | None, offset: int, sort: str | None, where: list[str] | None) -> Page:
    from eatnas_db.queries.paging import Page

    return Page(limit=limit, offset=offset, sort=sort, where=tuple(where or ()))


def _over_time(rows: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """A line for each value, with its share of the population at each step in per cent; the columns."""
    steps = sorted({row.step for row in rows})
    lines: dict[tuple[int, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row.block, row.primitive, row.value)
        line = lines.setdefault(key, dict(zip(("block", "primitive", "value"), key, strict=True)))
        line[f"step {row.step}"] = f"{row.share:.0%}"
        if row.step == steps[-1]:
            line["mean_fitness"] = row.mean_fitness
    columns = ["block", "primitive", "value", *(f"step {step}" for step in steps), "mean_fitness"]
    empty = dict.fromkeys(columns[3:-1], "-") | {"mean_fitness": None}
    return [empty | line for line in lines.values()], columns


def _inherited(rows: Sequence[RankedCandidate | PopulationMember | LineageEntry], format: Format) -> tuple[str, ...]:  # noqa: A002
    """The columns of inheritance; in a table only where somebody inherited."""
    told = format is not Format.TABLE or any(row.share_inherited is not None for row in rows)
    return ("share_inherited", "lineage_epochs") if told else ()


def _show_family(rows: Any, format: Format, picture: Path | None, page: Page) -> None:  # noqa: A002
    """A tree, where it is all of a family that can be read so; a table of what was chosen, or of many."""
    from eatnas_db.queries.paging import EVERYTHING, select_page

    if picture is not None:
        from eatnas_report.lineage_plot import draw_lineage

        draw_lineage(picture, rows)
        typer.echo(f"{picture} drawn")
        return
    if format is Format.TABLE and page == EVERYTHING and len(rows) < LONG:
        lineage_tree(rows)
        return
    columns = (
        "id",
        "search",
        "parent_id",
        "generation",
        "birth",
        "origin",
        "state",
        "fitness",
        "gain",
        "changes",
        *_inherited(rows, format),
        "code",
    )
    show(select_page(rows, page), columns, format)
