"""`query pareto`: the Pareto front of metric and cost, or of several objectives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, PlotFile, SearchName
from eatnas_cli.printing import Format, Layout, require_table, show
from eatnas_cli.query.empty_answers import explain_empty, require_data
from eatnas_cli.query.page_options import page_options
from eatnas_cli.sentences import print_sentence
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.objective_front import ObjectiveValues, list_objective_front, sample_objective_values
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.pareto import Tradeoff, list_front, list_tradeoffs
from eatnas_db.queries.searches import SearchRecord, get_search

app = new_app()

MAX_CLOUD: Final = 5000
"""The maximum number of scored candidates that a picture shows behind the front."""

ACCURACY: Final = "accuracy"
"""The field of a `Tradeoff` that holds the optimized metric."""


class CostMetric(StrEnum):
    """The cost that is traded off against the metric."""

    MULT_ADDS = "mult_adds"
    PARAMS = "params"


@app.command()
@takes_options(page=page_options, layout=layout_options)
def pareto(
    ctx: typer.Context,
    name: SearchName,
    *,
    cost: Annotated[
        CostMetric | None,
        typer.Option(
            help="Cost to compare with the metric. Default: mult_adds; for a search with several objectives, all its "
            "objectives."
        ),
    ] = None,
    picture: PlotFile = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """List the Pareto front: the candidates that no other candidate dominates in metric and cost."""
    if picture is not None:
        require_table(format, "--picture")
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        if cost is None and search.objectives:
            front_rows = list_objective_front(connection, search.id, page)
            cloud_rows = sample_objective_values(connection, search.id, MAX_CLOUD) if picture is not None else ()
            none = "" if front_rows else explain_empty(connection, search, "scored candidate", page)
            _show_objectives(search, front_rows, cloud_rows, picture, format, layout, none)
            return
        cost = cost or CostMetric.MULT_ADDS
        objective = search.objective
        front = list_front(connection, search.id, cost.value, objective.direction)
        cloud = list_tradeoffs(connection, search.id) if picture is not None else ()
        rows = select_page(front, _with_column(page, objective.column), row_type=Tradeoff)
        empty = "" if rows else explain_empty(connection, search, _members(search), page)
    if picture is not None:
        from eatnas_report.plots import draw_front

        require_data(front, empty)
        draw_front(picture, name, cost.value, cloud, front, objective)
        print_sentence(f"wrote {picture}")
        return
    columns = ("id", "birth", objective.column, "fitness", "params", "mult_adds", "origin", "code")
    default = ("id", "birth", objective.column, cost.value, "origin", "code")
    records = [
        {objective.column if key == ACCURACY else key: value for key, value in asdict(row).items()} for row in rows
    ]
    show(records, columns, format, layout=layout, default=default, empty=empty)


def _members(search: SearchRecord) -> str:
    """Return the name of the candidates that may belong to the front."""
    rungs = search.spec["evolution"].get("fidelity")
    return "candidate that has reached the last rung" if rungs and search.scored else "scored candidate"


def _show_objectives(
    search: SearchRecord,
    front: Sequence[ObjectiveValues],
    cloud: Sequence[ObjectiveValues],
    picture: Path | None,
    format: Format,  # noqa: A002
    layout: Layout,
    empty: str,
) -> None:
    """Print the front of several objectives with a column for each objective, or draw the first two objectives."""
    if picture is not None:
        from eatnas_report.objectives_plot import draw_objective_front

        require_data(front, empty)
        draw_objective_front(picture, search.name, search.objectives, cloud, front)
        print_sentence(f"wrote {picture}")
        return
    metrics = [objective.metric for objective in search.objectives]
    records = [{**asdict(row), **row.by_metric(search.objectives)} for row in front]
    others = [column for column in ("params", "mult_adds") if column not in metrics]
    columns = ("id", "birth", *metrics, "fitness", *others, "origin", "code")
    default = ("id", "birth", *metrics, "origin", "code")
    show(records, columns, format, layout=layout, default=default, empty=empty)


def _with_column(page: Page, column: str) -> Page:
    """In the options of a page, replace `column`, the shown name of the metric, with the name of its field."""
    if column == ACCURACY:
        return page
    sort = page.sort
    if page.sort_column is not None and page.sort_column[0] == column:
        sort = "-" * page.sort_column[1] + ACCURACY
    named = re.compile(rf"\s*{re.escape(column)}(?=\s*[!<>=])")
    return replace(page, sort=sort, where=tuple(named.sub(ACCURACY, condition, count=1) for condition in page.where))
