"""Check that the paths in the record stay in the artifacts folder."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, select

from eatnas_db.artifact_paths import find_artifact
from eatnas_db.database.transactions import read_transaction
from eatnas_db.integrity.violations import Violation, summarize_offenders
from eatnas_db.schema.trainings import checkpoint


def check_escaping_paths(engine: Engine, artifacts: Path) -> list[Violation]:
    """Find checkpoint paths that lead out of the artifacts folder; such files are neither read nor deleted."""
    with read_transaction(engine) as connection:
        paths = connection.execute(select(checkpoint.c.path).distinct().order_by(checkpoint.c.path)).scalars().all()
    escaping = [path for path in paths if find_artifact(artifacts, path) is None]
    return summarize_offenders("every checkpoint path stays in the artifacts folder", "paths", escaping)
