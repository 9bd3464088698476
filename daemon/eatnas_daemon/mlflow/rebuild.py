"""Move a home's MLflow store aside, so that it can be written again from the record."""

from __future__ import annotations

import itertools
from pathlib import Path

from sqlalchemy import Engine

from eatnas_daemon.mlflow.client import find_artifact_folder
from eatnas_db.database.locks import task_lock
from eatnas_db.errors import ConflictError
from eatnas_db.urls import hide_passwords, sqlite_file


def move_store_aside(engine: Engine, tracking_uri: str) -> list[Path]:
    """Rename the files of an SQLite store, and return their new names. Raises `ConflictError` for another store.

    A daemon that writes to the store notices that its file is gone, and opens the new one.
    """
    file, artifacts = sqlite_file(tracking_uri), find_artifact_folder(tracking_uri)
    if file is None or artifacts is None:
        raise ConflictError(
            f"{hide_passwords(tracking_uri)} is not an SQLite file, so it cannot be moved aside; delete the "
            "experiments eatnas/… in MLflow, then run `eatnas-db mlflow sync`"
        )
    number = next(n for n in itertools.count(1) if not any(_old(path, n).exists() for path in (file, artifacts)))
    with task_lock(engine, "mlflow"):
        present = [path for path in (*_auxiliary_files(file), file, artifacts) if path.exists()]
        return [path.rename(_old(path, number)) for path in present]


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.old-{number}")


def _auxiliary_files(file: Path) -> list[Path]:
    return [file.with_name(file.name + ending) for ending in ("-wal", "-shm", "-journal")]
