"""`db …`: the database's version, soundness, backups and copies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from alembic.util.exc import CommandError
from sqlalchemy import Engine

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import Format, show, show_one
from eatnas_daemon.daemon_lock import find_daemon_pid, hold_daemon_lock
from eatnas_db.backup import back_up
from eatnas_db.backup import restore as put_back
from eatnas_db.database.engine import create_engine_for, current_revision, open_record
from eatnas_db.database.locks import list_connected_hosts
from eatnas_db.database.transactions import read_transaction
from eatnas_db.database_copy import copy_record
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.searches import list_searches
from eatnas_db.schema.record import REVISION
from eatnas_db.settings import Settings, load_settings
from eatnas_migrations import commands
from eatnas_report.formats import format_size

app = new_app(no_args_is_help=True)


@app.command()
def upgrade(ctx: typer.Context) -> None:
    """Upgrade the database schema to this program's version; keeps all data."""
    with _unused(ctx.obj) as engine:
        found = current_revision(engine)
        if found is not None and found > REVISION:
            raise RecordError(f"the record is of a newer version ({found}; this program: {REVISION}); update eatnas-db")
        with _known_revisions():
            commands.upgrade(engine)
    typer.echo(f"the record is of version {REVISION}" + ("" if found == REVISION else f"; it was {found or 'none'}"))


@app.command()
def downgrade(
    ctx: typer.Context,
    revision: Annotated[
        str, typer.Argument(metavar="REVISION|base", help="An older version, or `base` to delete everything.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Confirm the deletion of data.")] = False,
) -> None:
    """Downgrade the database schema; data that the older version cannot store is deleted."""
    with _unused(ctx.obj) as engine:
        found = current_revision(engine)
        if found != REVISION:
            raise RecordError(
                f"only a record of this program's version ({REVISION}) can be brought back, and this one is of "
                f"{found or 'none'}; `eatnas-db db upgrade` first"
            )
        with read_transaction(engine) as connection:
            searches = list_searches(connection)
        held = f"{sum(row.born for row in searches)} candidates of {len(searches)} searches"
        lost = f"the whole record, {held}" if revision == "base" else f"what version {revision} cannot hold of {held}"
        if not yes:
            raise ConflictError(f"this would delete {lost}; nothing was changed, add --yes to do it")
        with _known_revisions():
            commands.downgrade(engine, revision)
    typer.echo(f"the record is of version {revision}; deleted: {lost}")


@app.command()
def current(ctx: typer.Context, format: FormatOption = Format.TABLE) -> None:  # noqa: A002
    """Show the schema versions of the database and of this program."""
    found = current_revision(_existing(ctx.obj))
    agree = found == REVISION
    show_one({"database": ctx.obj.printable_url, "record": found, "program": REVISION, "agree": agree}, format)


@app.command()
def check(
    ctx: typer.Context,
    files: Annotated[
        bool, typer.Option("--files", help="Read the content of checkpoint files too, not only their sizes.")
    ] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Check the tables and the consistency of their rows; exit 1 if a check fails."""
    engine = open_record(ctx.obj.database_url)
    if commands.differs_from_models(engine):
        raise RecordError(f"the tables of {ctx.obj.printable_url} differ from those of this version; restore a backup")
    violations = []
    for violation in list_violations(engine, ctx.obj.artifacts, whole_files=files):
        violations.append(violation)
        if format is Format.TABLE:
            typer.echo(violation)
    if format is not Format.TABLE:
        show(violations, ("invariant", "what", "count", "examples"), format)
    if violations:
        raise typer.Exit(1)
    if format is Format.TABLE:
        typer.echo("the record is intact: no rule is violated")


@app.command()
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; it appears when it is complete.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Back up the database into one file; the daemon may keep running."""
    copied = back_up(_file(ctx.obj), file.absolute(), force=force)
    typer.echo(f"{file} holds the record, {format_size(copied.bytes)}, of version {copied.revision}")


@app.command()
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by `db backup`.")],
) -> None:
    """Restore a backup; the current database is kept under another name."""
    database = _file(ctx.obj)
    with _idle(ctx.obj):
        restored = put_back(file.absolute(), database, now=time.time())
    kept = "" if restored.previous is None else f"; what was there is kept as {restored.previous}"
    typer.echo(f"{database} is restored from {file}{kept}")
    if restored.revision != REVISION:
        typer.echo(f"it is of an older version ({restored.revision}): run `eatnas-db db upgrade`")


@app.command()
def copy(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SQLITE", help="The SQLite file to copy.")],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="POSTGRES",
            help="URL of the PostgreSQL database. Default: EATNAS_DB_URL, which hides a password from other users.",
        ),
    ] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Copy an SQLite database into an empty PostgreSQL database and compare every row."""

    old = replace(ctx.obj, database_url=f"sqlite:///{source.absolute()}")
    new = ctx.obj if target is None else load_settings({}, str(ctx.obj.home), target)
    open_record(old.database_url).dispose()
    if new.database_file is not None:
        raise ConflictError("the target is a file: `eatnas-db db backup FILE` copies into one")
    server = create_engine_for(new.database_url)
    if current_revision(server) is None:
        commands.upgrade(server)
    server = open_record(new.database_url)
    with _unused(old) as engine:
        copied = copy_record(engine, server, _tell_rows if sys.stderr.isatty() else lambda *_: None)
    show(copied, ("table", "rows", "sha256"), format)
    if format is Format.TABLE:
        typer.echo(
            f"{source} is copied to {new.printable_url}, and every row compared; checkpoints stay where they are"
        )


def _tell_rows(table: str, done: int, rows: int) -> None:
    print(f"\r{table} {done:,} of {rows:,}\033[K", end="\n" if done == rows else "", file=sys.stderr, flush=True)


def _file(settings: Settings) -> Path:
    if settings.database_file is None:
        raise ConflictError("the record is on a server: back it up and restore it with pg_dump and pg_restore")
    return settings.database_file


def _existing(settings: Settings) -> Engine:
    if settings.database_file is not None and not settings.database_file.exists():
        raise RecordError(f"no record at {settings.database_file}; `eatnas-db init` makes one")
    return create_engine_for(settings.database_url)


@contextmanager
def _unused(settings: Settings) -> Iterator[Engine]:
    """An existing record that no daemon works on, nor can begin to."""
    engine = _existing(settings)
    with _idle(settings):
        with read_transaction(engine) as connection:
            if elsewhere := len(list_connected_hosts(connection)):
                raise ConflictError(
                    f"daemons of {elsewhere} hosts work on this record; `eatnas-db daemon stop` on each first"
                )
        yield engine
    engine.dispose()


@contextmanager
def _idle(settings: Settings) -> Iterator[None]:
    """No daemon of this host works on the record, nor can begin to."""
    holder = find_daemon_pid(settings.lock_file)
    if holder is not None:
        raise ConflictError(f"a daemon (pid {holder}) works on this record; `eatnas-db daemon stop` first")
    with hold_daemon_lock(settings.lock_file):
        yield


@contextmanager
def _known_revisions() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise RecordError(
            f"no way to that version: {' '.join(str(error).split())}; nothing was changed; see `eatnas-db db current`"
        ) from None
