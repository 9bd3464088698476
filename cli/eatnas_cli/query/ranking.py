"""`query best`: the best candidates of a search."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Connection

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import FITTING, Format, Layout, show
from eatnas_cli.query.columns import inheritance_columns, rung_column
from eatnas_cli.query.page_options import Conditions, Offset, SortColumn, page_options
from eatnas_db.database.engine import read_connection
from eatnas_db.domain.objective import MULT_ADDS, PARAMS, VALIDATION_ACCURACY
from eatnas_db.queries.metric_values import list_metric_values
from eatnas_db.queries.mutations import list_mutations_by_candidate
from eatnas_db.queries.objective_front import list_objective_values
from eatnas_db.queries.paging import Page
from eatnas_db.queries.ranking import rank_candidates
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.settings import Settings

app = new_app()


def _best_options(
    top: Annotated[int, typer.Option("--top", "--limit", min=1, max=1_000_000, help="Maximum number of rows.")] = 10,
    offset: Offset = 0,
    sort: SortColumn = None,
    where: Conditions = None,
) -> Page:
    return page_options(top, offset, sort, where)


@app.command()
@takes_options(page=_best_options, layout=layout_options)
def best(
    ctx: typer.Context,
    name: SearchName,
    *,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """List the best candidates of a search, with the results of their re-evaluations and tests."""
    print_best(ctx.obj, name, page, format, layout)


def print_best(
    settings: Settings,
    name: str,
    page: Page,
    format: Format = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Print the best candidates of a search. Raises `NotFoundError`."""
    with read_connection(settings.database_url) as connection:
        search = get_search(connection, name)
        rows = rank_candidates(connection, search.id, page)
        empty = "" if rows else _explain_empty(connection, search, page)
        ids = [row.id for row in rows]
        changed = list_mutations_by_candidate(connection, ids)
        objective = search.objective
        metric = objective.metric
        # If the metric is minimized or the cost has a weight, the fitness is not the metric, so also show the metric.
        is_fitness = metric == VALIDATION_ACCURACY and objective.target_mult_adds is None
        values = {} if is_fitness else list_metric_values(connection, ids)
        objectives = [objective.metric for objective in search.objectives]
        several = {
            row.id: row.by_metric(search.objectives)
            for row in (list_objective_values(connection, ids) if objectives else ())
        }
    for_table = format is Format.TABLE
    measures = [m for m in ("reevaluation", "test") if not for_table or any(getattr(row, f"{m}_seeds") for row in rows)]
    measured = tuple(f"{measure}{part}" for measure in measures for part in ("", "_spread", "_seeds"))
    started = ("test_weights_from",) if any(row.test_weights_from for row in rows) else ()
    inherited = inheritance_columns(rows, format)
    deviating = ("deviation",) if not for_table or any(row.deviation for row in rows) else ()
    own = () if is_fitness else (objective.column,)
    others = tuple(objective for objective in objectives if objective not in (metric, PARAMS, MULT_ADDS))
    values_first = ("id", "birth", *own, "fitness", *rung_column(rows), *others)
    columns = (*values_first, *measured, *started, "params", "mult_adds", "origin", "parent_birth", *inherited)
    records = [{**asdict(row), **several.get(row.id, {}), **{name: values.get(row.id) for name in own}} for row in rows]
    if not for_table and not layout.columns:
        show(records, (*columns, *deviating, "code"), format)
        return
    records = [{**record, "changed": changed.get(record["id"], ())} for record in records]
    default = (*values_first, *measures, *started, "mult_adds", "origin", *inherited[:1], *deviating, "changed")
    show(records, (*columns, *deviating, "changed", "code"), format, layout=layout, default=default, empty=empty)


def _explain_empty(connection: Connection, search: SearchRecord, page: Page) -> str:
    from eatnas_cli.query.empty_answers import (
        explain_empty,  # imported here, because an answer with rows does not need it
    )

    return explain_empty(connection, search, "scored candidate", page)
