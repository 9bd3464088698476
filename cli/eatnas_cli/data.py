"""`data …`: list, download and verify data sets."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from eatnas_cli.layout_options import layout_options, width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption, SearchName
from eatnas_cli.printing import FITTING, Format, Layout, show, show_one
from eatnas_cli.sentences import print_note, print_sentence
from eatnas_cli.values import count_of
from eatnas_daemon.data_sets import (
    PreparedData,
    describe_data_set,
    list_data_sets,
    locate_search_data,
    prepare_data_set,
    verify_data_set,
)
from eatnas_db.database.engine import read_connection
from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.plain_scalars import plain_values
from eatnas_db.errors import ConflictError, DamagedRecordError, DataError, RecordError
from eatnas_db.queries.searches import SearchRecord, get_search, list_searches
from eatnas_db.settings import Settings
from eatnas_db.yaml_files import YamlFormatError, parse_yaml

app = new_app(no_args_is_help=True)


@app.command("list")
@takes_options(layout=layout_options)
def list_data(
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """List the known data sets. A number is left empty if it depends on the files of the data set."""
    rows = list_data_sets()
    if format is Format.TABLE:
        rows = [{name: value if value != 0 else None for name, value in row.items()} for row in rows]
        for row in rows:
            row["needs_download"] = bool(row["needs_download"])
    show(
        rows,
        ("name", "images", "test_images", "side", "channels", "classes", "needs_download", "source"),
        format,
        layout=layout,
    )


class OnUnreadable(StrEnum):
    """The values of `data.on_unreadable`."""

    FAIL = "fail"
    SKIP = "skip"


@app.command("prepare")
@takes_options(layout=width_options)
def prepare_data(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a data set, as listed by `data list`.")],
    root: Annotated[
        str | None, typer.Option(help="Folder of the data set's files. Default: the data folder of the home.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            min=4,
            max=1024,
            help="Side of the images in pixels, as in data.resolution of your searches. With it, the command also "
            "prints the digest and fills the image cache.",
        ),
    ] = None,
    on_unreadable: Annotated[
        OnUnreadable, typer.Option(help="Reaction to an unreadable image, as in data.on_unreadable of your searches.")
    ] = OnUnreadable.FAIL,
    stratify: Annotated[
        bool, typer.Option("--stratify", help="Print the digest for searches with data.stratify: true.")
    ] = False,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="Option of the data set, as in data.options of your searches. Repeatable.",
        ),
    ] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Download missing files, read all files, and print a summary; exit with status 1 if a file is unreadable."""
    settings: Settings = ctx.obj
    section: dict[str, Any] = {"name": name, "root": root, "resolution": resolution}
    section |= {"on_unreadable": on_unreadable.value, "options": _parse_options(options or []), "stratify": stratify}
    data = settings.locate_data(section)
    name = data["name"]
    if sys.stderr.isatty():
        print_sentence(f"downloading and verifying {name}; this may take minutes", error=True)
    prepared = prepare_data_set(data)
    unreadable = _show_prepared(data, prepared, format, layout)
    if unreadable and on_unreadable is OnUnreadable.FAIL:
        raise DataError(
            f"{data['root']} has {count_of(unreadable, 'unreadable image')} (see `unreadable` above); replace or "
            "delete every unreadable image; to skip them, add --on-unreadable skip to this command, and "
            "data.on_unreadable: skip to the spec"
        )
    if prepared.folder is not None and prepared.resolution is None:
        print_note("the digest depends on data.resolution; add --resolution to print it")
    _refuse_changed_searches(settings, data)


def _show_prepared(data: Mapping[str, Any], prepared: PreparedData, format: Format, layout: Layout) -> int:  # noqa: A002
    """Show the content of a data set, and return the number of its unreadable images."""
    facts = {"name": data["name"], "root": str(Path(data["root"]).expanduser().absolute()), **asdict(prepared)}
    if prepared.plugin is None:
        del facts["plugin"]
    folder = facts.pop("folder")
    del facts["notes"]  # `folder` also contains the notes
    if folder is None:
        facts = {field: value for field, value in facts.items() if field not in ("files_digest", "content_digest")}
        show_one(facts, format, layout=layout)
        return 0
    if format is Format.TABLE:
        facts = {field: value for field, value in facts.items() if value is not None}
    show_one({**facts, **folder}, format, layout=layout)
    return len(folder["unreadable"])


@app.command("verify")
@takes_options(layout=width_options)
def verify_data(
    ctx: typer.Context,
    name: SearchName,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Read all images of a search again; exit with status 1 if they have changed since the search was created."""
    settings: Settings = ctx.obj
    with read_connection(settings.database_url) as connection:
        row = get_search(connection, name)
    if row.data_state is None:
        raise ConflictError(f"the record has no digests of the images of search {name!r}; there is nothing to compare")
    then, now = _state_of(row), verify_data_set(settings.locate_data(row.spec["data"])).state
    digests = [
        {"digest": kind, "at_creation": value, "now": now.digests()[kind], "equal": value == now.digests()[kind]}
        for kind, value in then.digests().items()
        if value is not None
    ]
    show(digests, ("digest", "at_creation", "now", "equal"), format, layout=layout)
    if (change := then.describe_change(now)) is not None:
        raise changed_error(name, change)
    if format is Format.TABLE:
        print_sentence(f"the images of search {name!r} are the same as at its creation")


def _parse_options(assignments: Sequence[str]) -> dict[str, Any]:
    options = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise typer.BadParameter(
                f"{assignment!r} is not KEY=VALUE; write, for example, channels=3", param_hint="--option"
            )
        try:
            options[key] = plain_values(parse_yaml(value))
        except YamlFormatError as error:
            raise typer.BadParameter(f"{assignment!r}: the value is not YAML: {error}", param_hint="--option") from None
    return options


def _refuse_changed_searches(settings: Settings, data: Mapping[str, Any]) -> None:
    """Raise `DataError` if the files of a data set have changed since the creation of an unfinished search that uses
    them.
    """
    if not settings.home.is_dir() or (settings.database_file is not None and not settings.database_file.exists()):
        return
    try:
        with read_connection(settings.database_url) as connection:
            rows = list_searches(connection)
    except RecordError:  # without a record, there are no searches to check
        return
    for row in rows:
        if row.data_state is None or row.finished_at is not None:
            continue
        try:
            section = locate_search_data(settings, row)
        except DamagedRecordError as error:
            print_note(f"the images of search {row.name!r} were not compared: {error}")
            continue
        same_files = section["name"] == data["name"] and _folder(section) == _folder(data)
        if not same_files:
            continue
        change = _state_of(row).describe_change(describe_data_set(section).state)
        if change is not None:
            raise changed_error(row.name, change)


def changed_error(name: str, change: str) -> DataError:
    """Return the error for a search whose images have changed."""
    return DataError(
        f"the images of search {name!r} have changed since it was created: {change}; restore them, or create a new "
        "search"
    )


def _state_of(row: SearchRecord) -> DataState:
    assert row.data_state is not None
    return DataState.from_json(row.data_state)


def _folder(section: Mapping[str, Any]) -> Path:
    return Path(section["root"]).expanduser().resolve()
