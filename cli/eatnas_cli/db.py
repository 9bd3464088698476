"""`db …`: upgrade, check, back up, restore and copy the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from alembic.util.exc import CommandError
from sqlalchemy import Engine

from eatnas_cli.layout_options import layout_options, width_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show, show_one
from eatnas_cli.record_files import export_files, import_files, print_row_progress
from eatnas_cli.sentences import print_note, print_sentence
from eatnas_cli.values import count_of
from eatnas_daemon.daemon_lock import find_record_user, hold_record
from eatnas_db.backup import back_up
from eatnas_db.backup import restore as put_back
from eatnas_db.database.engine import create_engine_for, current_revision, open_record
from eatnas_db.database.filesystem import refuse_network_file_system
from eatnas_db.database.locks import require_no_daemons
from eatnas_db.database.transactions import read_transaction
from eatnas_db.database_copy import copy_record
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.integrity.check import list_violations
from eatnas_db.integrity.violations import Violation
from eatnas_db.queries.searches import list_searches
from eatnas_db.schema.record import REVISION
from eatnas_db.settings import Settings, load_settings
from eatnas_db.urls import sqlite_url
from eatnas_migrations import commands
from eatnas_report.formats import format_size

app = new_app(no_args_is_help=True)
app.command("export")(export_files)
app.command("import")(import_files)


@app.command()
def upgrade(ctx: typer.Context) -> None:
    """Upgrade the database schema to this program's version and keep all data."""
    with _unused_database(ctx.obj) as engine:
        found = current_revision(engine)
        if found is not None and found > REVISION:
            raise RecordError(
                f"the database has a newer schema version ({found}; this program: {REVISION}); update eatnas-db"
            )
        with _revision_errors():
            commands.upgrade(engine)
    print_sentence(
        f"the database has schema version {REVISION}"
        + ("" if found == REVISION else f"; the previous version was {found or 'none'}")
    )


@app.command()
def downgrade(
    ctx: typer.Context,
    revision: Annotated[
        str, typer.Argument(metavar="REVISION|base", help="An older version, or `base` to remove the whole record.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Confirm the deletion of data.")] = False,
) -> None:
    """Downgrade the database schema; data that the older version cannot store is deleted."""
    with _unused_database(ctx.obj) as engine:
        found = current_revision(engine)
        if found != REVISION:
            raise RecordError(
                f"only a database with this program's schema version ({REVISION}) can be downgraded, but this one has "
                f"{found or 'none'}; run `eatnas-db db upgrade` first"
            )
        with read_transaction(engine) as connection:
            searches = list_searches(connection)
        candidates = count_of(sum(row.born for row in searches), "candidate")
        held = f"{candidates} of {len(searches)} search{'' if len(searches) == 1 else 'es'}"
        lost = (
            f"the whole database, {held}"
            if revision == "base"
            else f"the data of {held} that version {revision} cannot store"
        )
        if not yes:
            raise ConflictError(f"this would delete {lost}; nothing was changed; add --yes to confirm")
        with _revision_errors():
            commands.downgrade(engine, revision)
    print_sentence(f"the database has schema version {revision}; deleted: {lost}")


@app.command()
@takes_options(layout=width_options)
def current(
    ctx: typer.Context,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Show the schema versions of the database and of this program."""
    found = current_revision(_existing_database(ctx.obj))
    agree = found == REVISION
    show_one(
        {"database": ctx.obj.printable_url, "record": found, "program": REVISION, "agree": agree}, format, layout=layout
    )


@app.command()
@takes_options(layout=layout_options)
def check(
    ctx: typer.Context,
    files: Annotated[
        bool, typer.Option("--files", help="Also read the content of checkpoint files, not only their sizes.")
    ] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Check the tables and the consistency of their rows; exit with status 1 if a check fails."""
    engine = open_record(ctx.obj.database_url)
    if commands.differs_from_models(engine):
        raise RecordError(f"the tables of {ctx.obj.printable_url} do not match this program's schema; restore a backup")
    violations: list[Violation] = []
    unchecked: list[str] = []
    for violation in list_violations(engine, ctx.obj.artifacts, whole_files=files, on_unchecked=unchecked.append):
        violations.append(violation)
        if format is Format.TABLE:
            print_sentence(str(violation))
    if format is not Format.TABLE:
        show(violations, ("invariant", "what", "count", "examples"), format, layout=layout)
    for note in unchecked:
        print_note(note)
    if violations:
        raise typer.Exit(1)
    if format is Format.TABLE:
        print_sentence("the record is intact: no rule is violated" if not unchecked else "no rule is violated")


@app.command()
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write. It appears only when it is complete.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Back up the database into one file; the daemon may keep running."""
    copied = back_up(_database_file(ctx.obj), file.absolute(), force=force)
    print_sentence(f"wrote {file}, {format_size(copied.bytes)}, schema version {copied.revision}")


@app.command()
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by `db backup`.")],
) -> None:
    """Restore a backup; the current database is kept under another name."""
    database = _database_file(ctx.obj)
    with _without_daemon(ctx.obj):
        restored = put_back(file.absolute(), database, now=time.time())
    kept = "" if restored.previous is None else f"; the previous database is kept as {restored.previous}"
    print_sentence(f"restored {database} from {file}{kept}")
    if restored.revision != REVISION:
        print_sentence(
            f"the restored record has an older schema version ({restored.revision}); run `eatnas-db db upgrade`"
        )


@app.command()
@takes_options(layout=layout_options)
def copy(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SQLITE", help="The SQLite file to copy.")],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="POSTGRES",
            help="URL of the PostgreSQL database. Default: EATNAS_DB_URL. Other users can read arguments, but not this "
            "variable.",
        ),
    ] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Copy an SQLite database into an empty PostgreSQL database and compare every row."""

    old = replace(ctx.obj, database_url=sqlite_url(source.absolute()))
    new = ctx.obj if target is None else load_settings({}, str(ctx.obj.home), target)
    open_record(old.database_url).dispose()
    if new.database_file is not None:
        raise ConflictError(
            "the target must be a PostgreSQL database, not a file; `eatnas-db db backup FILE` copies into a file"
        )
    server = create_engine_for(new.database_url)
    if current_revision(server) is None:
        commands.upgrade(server)
    server = open_record(new.database_url)
    with _unused_database(old) as engine:
        copied = copy_record(engine, server, print_row_progress)
    show(copied, ("table", "rows", "sha256"), format, layout=layout)
    if format is Format.TABLE:
        print_sentence(
            f"copied {source} to {new.printable_url} and compared every row; checkpoints stay where they are"
        )


def _database_file(settings: Settings) -> Path:
    if settings.database_file is None:
        raise ConflictError("the database is on a server; back it up and restore it with pg_dump and pg_restore")
    # Resolve symbolic links: `db restore` replaces the file, and a link to the file must remain a link.
    return settings.database_file.resolve()


def _existing_database(settings: Settings) -> Engine:
    file = settings.database_file
    if file is not None:
        refuse_network_file_system(file)
        if not file.exists():
            raise RecordError(f"no database at {file}; `eatnas-db init` creates one")
    return create_engine_for(settings.database_url)


@contextmanager
def _unused_database(settings: Settings) -> Iterator[Engine]:
    """Yield the engine of an existing database, and keep daemons from starting on it."""
    engine = _existing_database(settings)
    with _without_daemon(settings):
        with read_transaction(engine) as connection:
            require_no_daemons(connection)
        yield engine
    engine.dispose()


@contextmanager
def _without_daemon(settings: Settings) -> Iterator[None]:
    """Keep daemons of this host from starting. Raises `ConflictError` if a daemon is running."""
    user = find_record_user(settings.lock_file)
    if user is not None:
        advice = "run `eatnas-db daemon stop` first" if user.is_daemon else "wait until it has ended"
        raise ConflictError(f"{user} uses this database; {advice}")
    with hold_record(settings, "a `db` command"):
        yield


@contextmanager
def _revision_errors() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise RecordError(
            f"cannot change to that schema version: {' '.join(str(error).split())}; nothing was changed; "
            "`eatnas-db db current` shows the current version"
        ) from None
