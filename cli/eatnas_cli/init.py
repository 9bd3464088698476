"""`init`: create the home folder and its database."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Final

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_db.database.engine import create_engine_for, current_revision, open_record
from eatnas_db.database.filesystem import refuse_network_file_system
from eatnas_db.errors import RecordError
from eatnas_db.settings import Settings
from eatnas_migrations import commands

app = new_app()

REQUIRED_BYTES: Final = 1 << 20
"""The size of an empty record, with a margin."""


@app.command()
def init(ctx: typer.Context) -> None:
    """Create the home folder and the database; existing data is kept."""
    make_home(ctx.obj)
    typer.echo(f"home {ctx.obj.home}\nrecord {ctx.obj.printable_url}")


def make_home(settings: Settings) -> None:
    """Create the folders and the record if they are missing. Raises `RecordError` on failure."""
    file = settings.database_file
    engine = create_engine_for(settings.database_url)
    folders = [settings.home, settings.logs, settings.artifacts, settings.data]
    if file is not None:
        refuse_network_file_system(file)
        folders.append(file.parent)
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{error.filename} cannot be created: {error.strerror}; choose another --home") from None
    if (file is not None and not file.exists()) or current_revision(engine) is None:
        if file is not None:
            _require_room(file.parent)
        commands.upgrade(engine)
    engine.dispose()
    open_record(settings.database_url).dispose()


def _require_room(folder: Path) -> None:
    # Check for free space first: SQLite would report an exhausted quota as an I/O error, and leave an incomplete
    # record.
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(REQUIRED_BYTES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RecordError(
                f"the disk of {folder} is full; free some space and try again; nothing was created"
            ) from None
        raise RecordError(f"{folder} is not writable: {error.strerror}; choose another --home") from None
