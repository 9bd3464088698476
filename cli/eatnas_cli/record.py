"""How commands reach the record: one view of it, or one change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from eatnas_cli.printing import Format
from eatnas_db.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

Written = Annotated[Format, typer.Option("--format", help="How to write the answer.")]
SearchName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a search.")]


@contextmanager
def viewing(settings: Settings) -> Iterator[Connection]:
    """One consistent view of the record. Raises `RecordError`."""
    from eatnas_db.database import engine

    with engine.read_connection(settings.database_url) as connection:
        yield connection


@contextmanager
def changing(settings: Settings) -> Iterator[Connection]:
    """One change of the record: everything or nothing. Raises `RecordError`."""
    from eatnas_db.database import engine

    with engine.write_connection(settings.database_url) as connection:
        yield connection
