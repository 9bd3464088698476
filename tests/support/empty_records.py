"""New databases with an empty record."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.engine import create_engine_for
from eatnas_migrations import commands
from support.shared_statements import share_statements


def create_empty_record(url: str) -> Engine:
    """Create an empty record in a new SQLite file, or on a server unless its database holds one; return an engine.

    The file is a copy, because the migrations take a hundred times as long. The records of all copies have the same
    UUID.
    """
    engine = create_engine_for(url)
    if is_postgresql(engine):
        commands.upgrade(engine)
    else:
        assert engine.url.database is not None
        Path(engine.url.database).write_bytes(_migrate_file())
        engine.connect().close()  # a dialect is complete after its first connection
    share_statements(engine)
    return engine


@cache
def _migrate_file() -> bytes:
    """Return the content of an SQLite file with an empty record."""
    with tempfile.TemporaryDirectory(prefix="eatnas-empty-") as folder:
        file = Path(folder) / "eatnas.db"
        engine = create_engine_for(f"sqlite:///{file}")
        commands.upgrade(engine)
        engine.dispose()
        return file.read_bytes()
