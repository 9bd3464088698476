"""Check the checkpoint files against the rows that name them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, select

from eatnas_db.artifact_paths import find_artifact
from eatnas_db.checkpoint_files import has_digest
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.transactions import read_transaction
from eatnas_db.integrity.violations import Violation, summarize_offenders
from eatnas_db.schema.trainings import checkpoint


def check_checkpoint_files(engine: Engine, artifacts: Path, *, whole_files: bool) -> list[Violation]:
    """Check that every recorded file exists and has its recorded size and, with `whole_files`, its recorded content."""
    columns = (checkpoint.c.path, checkpoint.c.bytes, checkpoint.c.digest)
    with read_transaction(engine) as connection:
        rows = connection.execute(select(*columns).order_by(*columns)).all()
    missing, different = [], []
    for row in rows:
        file = find_artifact(artifacts, row.path)
        if file is None:  # `escaping_paths` reports this path
            continue
        try:
            if file.stat().st_size != row.bytes or (whole_files and not has_digest(file, row.digest)):
                different.append(row.path)
        except OSError:
            if not is_postgresql(engine):  # otherwise the file may be in another host's home
                missing.append(row.path)
    if missing or different:
        # The daemon may have removed some of these files together with their rows in the meantime.
        with read_transaction(engine) as connection:
            kept = set(connection.execute(select(checkpoint.c.path)).scalars())
        missing, different = ([path for path in paths if path in kept] for paths in (missing, different))
    return summarize_offenders("every recorded checkpoint file exists", "files", missing) + summarize_offenders(
        "every checkpoint file has its recorded size and content", "files", different
    )
