"""`candidate …`: show, retry and cancel candidates, and print their logs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from eatnas_cli.layout_options import width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import CandidateId, FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show_one
from eatnas_cli.query.page_options import Conditions, describe_conditions
from eatnas_cli.sentences import print_sentence
from eatnas_cli.values import count_of
from eatnas_db.database.engine import read_connection, write_record
from eatnas_db.domain.states import CandidateState
from eatnas_db.errors import NotFoundError
from eatnas_db.queries.candidate_ids import require_candidate
from eatnas_db.queries.candidates import get_candidate
from eatnas_db.queries.failures import FailedAttempt, list_failures
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.searches import get_search
from eatnas_db.settings import Settings

app = new_app(no_args_is_help=True)


@app.command("show")
@takes_options(layout=width_options)
def show_candidate(
    ctx: typer.Context,
    candidate: CandidateId,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Show all data about a candidate."""
    with read_connection(ctx.obj.database_url) as connection:
        row = asdict(get_candidate(connection, candidate))
    for key in ("rungs", "weights_from"):
        if not row[key]:
            del row[key]
    show_one(row if format is Format.JSON else _with_metric_columns(row), format, layout=layout)


def _with_metric_columns(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a candidate. Each metric of its epochs becomes a column in the table of epochs."""
    epochs = [{**epoch, **(epoch["metrics"] or {}), "metrics": None} for epoch in record["epochs"]]
    names = dict.fromkeys(name for epoch in epochs for name in epoch)
    used = [name for name in names if any(epoch.get(name) is not None for epoch in epochs)]
    # Leave out empty columns: a user's own training function does not fill every column, and final models have no
    # validation metrics.
    of_program = any(epoch["metrics"] is not None for epoch in record["epochs"])
    kept = used if of_program else [name for name in names if name != "metrics"]
    return {**record, "epochs": tuple({name: epoch.get(name) for name in kept} for epoch in epochs)}


@app.command()
def logs(ctx: typer.Context, candidate: CandidateId) -> None:
    """Print the log of a candidate's trainings on this machine."""
    with read_connection(ctx.obj.database_url) as connection:
        require_candidate(connection, candidate)
    file = ctx.obj.logs / f"candidate-{candidate}.log"
    if not file.is_file():
        raise NotFoundError(
            f"no log of candidate {candidate} at {file}: no worker of this home has trained it, or the log was deleted "
            "to free space"
        )
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            typer.echo(line, nl=False)


@app.command()
def retry(
    ctx: typer.Context,
    candidate: Annotated[
        int | None, typer.Argument(metavar="CANDIDATE", help="Id of a failed candidate; `query failures` lists ids.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Retry all failed candidates of this search."),
    ] = None,
    where: Conditions = None,
) -> None:
    """Train failed candidates again from scratch, as new candidates of a separate search.

    Give the id of one candidate, or --search. With --search, --where selects candidates by the columns of their last
    failure, which `query failures` shows, for example `failure=hang`.
    """
    if (candidate is None) == (search is None) or (where and search is None):
        raise typer.BadParameter("give the id of a candidate, or --search NAME with or without --where")
    if search is not None:
        _retry_failed(ctx.obj, search, Page(where=tuple(where or ())))
    elif candidate is not None:
        _retry_one(ctx.obj, candidate)


def _retry_one(settings: Settings, candidate: int) -> None:
    from eatnas_db.searches.retry import Retry, retry_candidates  # loads pydantic, which quick commands do not need

    def write(connection: Connection) -> Retry:
        require_candidate(connection, candidate)
        return retry_candidates(connection, (candidate,), time.time())[0]

    retry = write_record(settings.database_url, write)
    print_sentence(f"candidate {candidate} will train again as candidate {retry.retry_id} of search {retry.search}")


def _retry_failed(settings: Settings, name: str, page: Page) -> None:
    from eatnas_db.searches.retry import Retry, list_retried, retry_candidates

    of_search = f"search {name}{describe_conditions(page)}"

    def write(connection: Connection) -> tuple[list[int], set[int], Sequence[Retry]]:
        failures = list_failures(connection, get_search(connection, name).id)
        last = {row.candidate_id: row for row in failures if row.state == CandidateState.FAILED}
        ids = [row.candidate_id for row in select_page(last.values(), page, row_type=FailedAttempt)]
        earlier = list_retried(connection, ids)
        return ids, earlier, retry_candidates(connection, [key for key in ids if key not in earlier], time.time())

    ids, earlier, retries = write_record(settings.database_url, write)
    for target, count in Counter(retry.search for retry in retries).items():
        print_sentence(f"search {target} will train {count_of(count, 'failed candidate')} of {of_search} again")
    if earlier:
        print_sentence(f"skipped {count_of(len(earlier), 'failed candidate')} of {of_search}: already retried")
    if not ids:
        print_sentence(f"nothing to retry: no failed candidate of {of_search}")


@app.command()
def cancel(ctx: typer.Context, candidate: CandidateId) -> None:
    """Cancel a candidate that is pending or in training."""
    from eatnas_db import transitions  # imported here, because `candidate show` does not need transitions

    _change(ctx.obj, candidate, transitions.cancel)
    print_sentence(f"candidate {candidate} is cancelled")


def _change(settings: Settings, candidate: int, transition: Callable[[Connection, int, float], object]) -> None:
    def write(connection: Connection) -> None:
        require_candidate(connection, candidate)
        transition(connection, candidate, time.time())

    write_record(settings.database_url, write)
