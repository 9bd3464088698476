"""`query population`, `query primitives` and `query mutations`: the population, its blocks and its mutations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import BlockNumber, FormatOption, PlotFile, SearchName
from eatnas_cli.printing import Format, Layout, require_table, show
from eatnas_cli.query.columns import inheritance_columns
from eatnas_cli.query.empty_answers import explain_empty, require_data
from eatnas_cli.query.page_options import page_options
from eatnas_cli.sentences import print_sentence
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.mutations import MutationStatistics, list_mutation_statistics
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.population import PopulationMember, list_population
from eatnas_db.queries.primitives import PrimitiveShare, list_primitives
from eatnas_db.queries.searches import get_search

app = new_app()


@app.command()
@takes_options(page=page_options, layout=layout_options)
def population(
    ctx: typer.Context,
    name: SearchName,
    *,
    at: Annotated[int | None, typer.Option(min=0, help="Number of a step. Default: the latest step.")] = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """List the members of the population, now or after a step."""
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        rows = select_page(list_population(connection, search.id, at), page, row_type=PopulationMember)
        what = "member of the population" + ("" if at is None else f" after step {at}")
        empty = "" if rows else explain_empty(connection, search, what, page)
    inherited = inheritance_columns(rows, format)
    columns = ("id", "birth", "joined", "left", "fitness", "params", "mult_adds", "origin", *inherited, "code")
    default = [column for column in columns if column not in ("left", "params")]
    show(rows, columns, format, layout=layout, default=default, empty=empty)


@app.command()
@takes_options(page=page_options, layout=layout_options)
def primitives(
    ctx: typer.Context,
    name: SearchName,
    *,
    block: BlockNumber = None,
    points: Annotated[int, typer.Option(min=1, max=100, help="Number of evenly spaced steps to show.")] = 5,
    picture: PlotFile = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Show, for each value of a primitive, its share of the population over time and its mean fitness.

    The table has a row for each value and a column for each step. With --sort, --limit or --offset, it has a row for
    each value at each step.
    """
    if picture is not None:
        require_table(format, "--picture")
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        values = list_primitives(connection, search.id, block, points)
        shown = Page(where=page.where) if picture is not None else page
        rows = select_page(values, shown, row_type=PrimitiveShare)
        empty = "" if rows else explain_empty(connection, search, "value of a block in its population", page)
    if picture is not None:
        from eatnas_report.primitives_plot import draw_primitives

        require_data(rows, empty)
        draw_primitives(picture, name, rows)
        print_sentence(f"wrote {picture}")
    elif format is Format.TABLE and page == Page(where=page.where):
        lines, columns = _over_time(rows)
        show(lines, columns, layout=layout, empty=empty)
    else:
        columns = ["step", "block", "primitive", "value", "members", "share", "mean_fitness"]
        show(rows, columns, format, layout=layout, empty=empty)


def _over_time(rows: Sequence[PrimitiveShare]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each value, with its percentage of the population at each step, and the names of the columns."""
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


@app.command()
@takes_options(page=page_options, layout=layout_options)
def mutations(
    ctx: typer.Context,
    name: SearchName,
    *,
    block: BlockNumber = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Show the number of mutations of each kind and their effect on the fitness."""
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        statistics = list_mutation_statistics(connection, search.id, block)
        rows = select_page(statistics, page, row_type=MutationStatistics)
        what = "candidate born by mutation" if block is None else f"mutation of block {block}"
        empty = "" if rows else explain_empty(connection, search, what, page)
    columns = ("primitive", "before", "after", "children", "scored", "joined", "improved", "mean_gain", "best_gain")
    show(rows, columns, format, layout=layout, empty=empty)
