"""Move a home's MLflow store aside, so that a new store can be written from the record."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from eatnas_daemon.mlflow.client import find_artifact_folder
from eatnas_db.database.locks import task_lock
from eatnas_db.errors import ConflictError
from eatnas_db.urls import hide_passwords, sqlite_file

JOURNAL_ENDINGS: Final = ("-wal", "-shm", "-journal")


def move_store_aside(engine: Engine, tracking_uri: str, *, home_uri: str, confirmed: bool) -> list[Path]:
    """Rename the files of an SQLite store, and return their new names.

    Raises `ConflictError` if the store is not an SQLite file. Also raises `ConflictError` if the store is not the
    home's own store `home_uri` and `confirmed` is false. A daemon that writes to the store notices that the file is
    gone, and opens a new store.
    """
    file, artifacts = sqlite_file(tracking_uri), find_artifact_folder(tracking_uri)
    if file is None or artifacts is None:
        raise ConflictError(
            f"{hide_passwords(tracking_uri)} is not an SQLite file, so it cannot be moved aside; delete the "
            "experiments eatnas/… in MLflow, then run `eatnas-db mlflow sync`"
        )
    own = sqlite_file(home_uri)
    if not confirmed and (own is None or file.resolve() != own.resolve()):
        raise ConflictError(
            f"{hide_passwords(tracking_uri)} is not the MLflow store of this home, and others may use it; nothing was "
            f"changed; add --yes to rename it and {artifacts}, or unset MLFLOW_TRACKING_URI"
        )
    with task_lock(engine, "mlflow"):
        numbered = (_list_renamings(file, artifacts, number) for number in itertools.count(1))
        renamings = next(renamings for renamings in numbered if not any(new.exists() for _, new in renamings))
        return [old.rename(new) for old, new in renamings if old.exists()]


def _list_renamings(file: Path, artifacts: Path, number: int) -> list[tuple[Path, Path]]:
    """Return the old and new paths of a store's files, including SQLite's journals, which must keep the name of the
    database.
    """
    kept = file.with_name(f"{file.name}.old-{number}")
    journals = [(Path(f"{file}{ending}"), Path(f"{kept}{ending}")) for ending in JOURNAL_ENDINGS]
    return [*journals, (file, kept), (artifacts, artifacts.with_name(f"{artifacts.name}.old-{number}"))]
