"""`query lineage` and `query descendants`: the ancestors and the descendants of a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from sqlalchemy import Connection

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.lineage_tree import print_lineage_tree
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import CandidateId, FormatOption, PlotFile
from eatnas_cli.printing import FITTING, Format, Layout, require_table, show
from eatnas_cli.query.columns import inheritance_columns, rung_column
from eatnas_cli.query.page_options import page_options
from eatnas_cli.sentences import print_sentence
from eatnas_cli.tables import terminal_width
from eatnas_db.database.engine import read_connection
from eatnas_db.errors import ConflictError
from eatnas_db.queries.candidate_ids import parse_candidate_id
from eatnas_db.queries.lineage import LineageEntry, get_lineage, list_descendants, list_scored_births
from eatnas_db.queries.paging import EVERYTHING, Page, select_page
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search
from eatnas_db.settings import Settings

app = new_app()

TREE_LIMIT: Final = 500
"""A family of this size or larger is printed as a table instead of a tree."""


@app.command()
@takes_options(page=page_options, layout=layout_options)
def lineage(
    ctx: typer.Context,
    name_or_id: Annotated[
        str, typer.Argument(help="Id of a candidate, or name of a search, which selects its best candidate.")
    ],
    *,
    picture: PlotFile = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Show the ancestors of a candidate and every mutation since the first ancestor."""
    _print_family(ctx.obj, read_lineage(ctx.obj, name_or_id), format, picture, page, layout)


@app.command()
@takes_options(page=page_options, layout=layout_options)
def descendants(
    ctx: typer.Context,
    candidate: CandidateId,
    *,
    picture: PlotFile = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Show the descendants of a candidate."""
    with read_connection(ctx.obj.database_url) as connection:
        rows = list_descendants(connection, candidate)
    _print_family(ctx.obj, rows, format, picture, page, layout)


def read_lineage(settings: Settings, name_or_id: str) -> Sequence[LineageEntry]:
    """Return the ancestors of a candidate, or of a search's best candidate, the oldest first."""
    with read_connection(settings.database_url) as connection:
        return get_lineage(connection, _candidate_id(connection, name_or_id))


def _candidate_id(connection: Connection, name_or_id: str) -> int:
    candidate_id = parse_candidate_id(name_or_id)
    if candidate_id is not None:
        return candidate_id
    best = get_best(connection, get_search(connection, name_or_id).id)
    if best is None:
        raise ConflictError(
            f"search {name_or_id!r} has no scored candidate yet; `eatnas-db run {name_or_id}` trains it"
        )
    return best.id


def _print_family(
    settings: Settings,
    rows: Sequence[LineageEntry],
    format: Format,  # noqa: A002
    picture: Path | None,
    page: Page,
    layout: Layout,
) -> None:
    """Print a tree of all rows.

    Print a table instead if the page selects rows, or if the family has too many members or generations for a tree.
    """
    if picture is not None:
        require_table(format, "--picture")
        from eatnas_report.lineage_plot import draw_lineage

        with read_connection(settings.database_url) as connection:
            births = list_scored_births(connection, {relative.search for relative in rows})
        draw_lineage(picture, rows, births)
        print_sentence(f"wrote {picture}")
        return
    is_tree = format is Format.TABLE and page == EVERYTHING and layout == FITTING and len(rows) < TREE_LIMIT
    if is_tree and print_lineage_tree(rows, terminal_width()):
        return
    optional = inheritance_columns(rows, format)
    if any(row.reason is not None for row in rows):
        optional += ("reason",)
    rung = rung_column(rows)
    measured = ("fitness", *rung, "gain")
    columns = ("id", "search", "parent_id", "generation", "birth", "origin", "state", *measured, "changes")
    empty = f"no candidate of this family meets the conditions {', '.join(page.where)}"
    default = ("id", "search", "generation", "birth", "origin", *measured, "changes")
    selected = select_page(rows, page, row_type=LineageEntry)
    show(selected, (*columns, *optional, "code"), format, layout=layout, default=default, empty=empty)
