"""Check a whole record: the database file, the rows and the checkpoint files.

Each check reads in short transactions, so a record can be checked while it is in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.errors import RecordError
from eatnas_db.integrity.checkpoint_files import check_checkpoint_files
from eatnas_db.integrity.database_file import check_database_file, check_foreign_keys
from eatnas_db.integrity.epochs import check_epochs
from eatnas_db.integrity.escaping_paths import check_escaping_paths
from eatnas_db.integrity.genotypes import check_genotypes
from eatnas_db.integrity.invariants import check_invariants
from eatnas_db.integrity.replay import check_replay
from eatnas_db.integrity.rungs import check_rungs
from eatnas_db.integrity.sources import check_sources
from eatnas_db.integrity.violations import NoteCallback, Violation


def list_violations(
    engine: Engine, artifacts: Path, *, whole_files: bool = False, on_unchecked: NoteCallback = lambda _: None
) -> Iterator[Violation]:
    """Yield every invariant that does not hold.

    The sizes of checkpoint files below `artifacts` are compared with the record. With `whole_files`, their contents are
    compared, too. `on_unchecked` is called for each search that cannot be replayed because one of its plug-ins is
    missing. Raises `RecordError` if the database cannot be read.
    """
    on_sqlite = not is_postgresql(engine)
    damage = check_database_file(engine) if on_sqlite else []
    yield from damage
    try:
        if on_sqlite:
            yield from check_foreign_keys(engine)
        yield from check_invariants(engine)
        yield from check_epochs(engine)
        yield from check_genotypes(engine)
        yield from check_replay(engine, on_unchecked)
        yield from check_rungs(engine)
        yield from check_sources(engine)
        yield from check_escaping_paths(engine, artifacts)
        yield from check_checkpoint_files(engine, artifacts, whole_files=whole_files)
    except RecordError:
        if not damage:  # otherwise the damage explains the error and is already reported
            raise
