"""`query quality` and `query compare`: the quality of the population, and the device time that it took."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, PlotFile, SearchName
from eatnas_cli.printing import Format, Layout, require_table, show
from eatnas_cli.query.empty_answers import explain_empty, explain_progress, require_data
from eatnas_cli.query.page_options import page_options
from eatnas_cli.sentences import print_note, print_sentence
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.compute_curves import LevelReached, list_compute_curves, list_levels_reached, list_reservations
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.searches import get_search

app = new_app()


class Over(StrEnum):
    """The horizontal axis of a quality curve."""

    BIRTHS = "births"
    COMPUTE = "compute"


class Measure(StrEnum):
    """The metric by which searches are compared."""

    QUALITY = "quality"
    MEAN = "mean"
    BEST = "best"


@app.command()
@takes_options(page=page_options, layout=layout_options)
def quality(
    ctx: typer.Context,
    name: SearchName,
    *,
    picture: PlotFile = None,
    curve: Annotated[bool, typer.Option("--curve", help="Plot the mean and the best fitness on the terminal.")] = False,
    over: Annotated[
        Over, typer.Option(help="Horizontal axis of the plot: births, or device seconds (compute).")
    ] = Over.BIRTHS,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Show the quality of the population after each step."""
    from eatnas_report.plots import MAX_POINTS

    if curve or picture is not None:
        require_table(format, "--curve" if picture is None else "--picture")
    with read_connection(ctx.obj.database_url) as connection:
        search = get_search(connection, name)
        if curve or picture is not None:
            steps = list_steps(connection, search.id, max_points=MAX_POINTS)
        else:
            steps = list_steps(connection, search.id, page=page)
        drawn = [step for step in steps if step.mean is not None]
        empty = "" if drawn else explain_empty(connection, search, "step with a scored member", page)
    if picture is not None:
        from eatnas_report.plots import draw_quality

        require_data(drawn, empty)
        draw_quality(picture, name, steps, over_compute=over is Over.COMPUTE)
        print_sentence(f"wrote {picture}")
    elif curve:
        from eatnas_report.terminal import draw_quality_curve

        if drawn:
            typer.echo(draw_quality_curve(steps, over_compute=over is Over.COMPUTE))
        else:
            print_sentence(empty)
    else:
        # JSON and CSV have the same columns for every search.
        volume = ("hypervolume",) if search.objectives or format is not Format.TABLE else ()
        show(
            steps,
            ("number", "size", "mean", "spread", "best", "quality", *volume, "device_seconds", "at"),
            format,
            layout=layout,
            empty=empty,
        )
    if search.ends_at is not None and search.ended is not None and format is Format.TABLE:
        print_sentence(f"ended: {search.ended}")


@app.command()
@takes_options(page=page_options, layout=layout_options)
def compare(
    ctx: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="Names of searches. Ratios are relative to the first search.")
    ],
    *,
    level: Annotated[
        list[float] | None,
        typer.Option(metavar="X", help="Value of the metric to reach. Repeatable. Default: five evenly spaced values."),
    ] = None,
    by: Annotated[Measure, typer.Option(help="Metric to compare.")] = Measure.QUALITY,
    alone: Annotated[
        bool, typer.Option("--alone", help="For a transferred search, do not count the device seconds of its source.")
    ] = False,
    picture: PlotFile = None,
    page: Page,
    layout: Layout,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Compare the device seconds that searches needed to reach the same quality."""
    if picture is not None:
        require_table(format, "--picture")
    with read_connection(ctx.obj.database_url) as connection:
        searches = list({name: get_search(connection, name) for name in names}.values())
        curves = list_compute_curves(connection, names, measure=by.value, alone=alone)
        causes = [
            f"search {search.name!r} has no complete initial population yet: "
            f"{explain_progress(connection, search) or f'its status is {search.status}'}"
            for search in searches
            if not any(curve.points for curve in curves if curve.search == search.name)
        ]
    for note in list_reservations(searches):
        print_note(note)
    empty = "; ".join(causes)
    if picture is not None:
        from eatnas_report.plots import draw_compute_curves

        require_data([curve for curve in curves if curve.points], empty)
        draw_compute_curves(picture, curves, by.value)
        print_sentence(f"wrote {picture}")
        return
    for cause in causes if any(curve.points for curve in curves) else ():
        print_note(cause)
    rows = select_page(list_levels_reached(curves, level or ()), page, row_type=LevelReached)
    empty = empty or f"no level meets {' '.join(page.where) or 'the given options'}"
    show(rows, ("level", "search", "device_seconds", "ratio"), format, layout=layout, empty=empty)
