"""Back up a record that may be in use, and restore a backup. A backup or a restore that fails changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from sqlalchemy import select

from eatnas_db import events
from eatnas_db.atomic_files import sync_and_replace
from eatnas_db.database.engine import BUSY_SECONDS, create_engine_for
from eatnas_db.database.filesystem import refuse_network_file_system
from eatnas_db.database.sqlite_access import ReadingConnection, connect_for_reading, may_write
from eatnas_db.database.transactions import transaction
from eatnas_db.errors import ConflictError, NotFoundError, RecordError
from eatnas_db.lost_leases import reclaim_leases
from eatnas_db.schema.record import REVISION, VERSION_TABLE
from eatnas_db.schema.trainings import lease
from eatnas_db.urls import sqlite_url

EXCLUSIVE_SECONDS: Final = 5.0
"""The seconds that a restore waits for other programs to close the record."""
_AUXILIARY_SUFFIXES: Final = ("-wal", "-shm", "-journal")
"""SQLite keeps these files next to an open database."""


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The file of a backup, the revision of its schema and its size in bytes."""

    file: Path
    revision: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """The schema revision of a restored record, and the file that keeps the previous record, if there was one."""

    revision: str
    previous: Path | None


def back_up(source: Path, target: Path, *, force: bool = False) -> BackupResult:
    """Copy one snapshot of a record into a file. Other programs may write to the record during the copy.

    Raises `RecordError` if `source` is not an intact record, `NotFoundError` if the folder of `target` does not exist,
    and `ConflictError` if `target` exists and `force` is false.
    """
    if not source.exists():
        raise RecordError(f"no record at {source}; run `eatnas-db init` to create one")
    _require_target(source, target, force)
    with _temporary_copy(source, target) as copy:
        revision = _verify(copy, source)
        _install(copy, target)
    return BackupResult(target, revision, target.stat().st_size)


def restore(backup: Path, database: Path, *, now: float, busy_seconds: float = EXCLUSIVE_SECONDS) -> RestoreResult:
    """Replace a record with a backup, and keep the previous record under another name.

    The leases in the backup are released, because no daemon holds them any longer. The caller must hold the daemon's
    lock. If the function raises `NotFoundError`, `RecordError` or `ConflictError`, the record is unchanged.
    """
    if not backup.is_file():
        raise NotFoundError(f"there is no backup file {backup}; `eatnas-db db backup` creates one")
    if database.exists() and backup.samefile(database):
        raise ConflictError(f"{backup} is the record itself; choose a backup file")
    refuse_network_file_system(database)
    with _temporary_copy(backup, database) as copy:
        revision = _verify(copy, backup)
        if revision > REVISION:
            raise RecordError(
                f"{backup} has a newer version ({revision}; this program: {REVISION}); update eatnas-db to restore it"
            )
        if revision == REVISION:
            _release_leases(copy, backup, now)
        with _exclusive_access(database, busy_seconds):
            previous = _keep_previous(database, now)
            _install(copy, database)
    return RestoreResult(revision, previous)


def _require_target(source: Path, target: Path, force: bool) -> None:
    if target.is_dir() or not target.parent.is_dir():
        raise NotFoundError(f"{target} is not a valid file name; name a file in an existing folder")
    if target.exists() and target.samefile(source):
        raise ConflictError(f"{target} is the record itself; choose another file")
    if any(file.exists() for file in _auxiliary_files(target)):
        raise ConflictError(f"{target} is a database that is open, or was not closed properly; choose another file")
    if target.exists() and not force:
        raise ConflictError(f"{target} already exists; choose another file, or add --force to replace it")


@contextmanager
def _temporary_copy(source: Path, target: Path) -> Iterator[Path]:
    """Copy a database into a temporary file next to `target`, and remove the file at the end of the block."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(descriptor)
    copy = Path(name)
    try:
        with (
            _translated_errors(source, copy),
            closing(_open_source(source)) as old,
            closing(sqlite3.connect(copy)) as new,
        ):
            # Copy in one step, because a copy in several steps starts over whenever another program writes in between.
            old.backup(new)
            if isinstance(old, ReadingConnection):
                old.require_unchanged()
            # Leave WAL mode, because a file in WAL mode cannot be read without permission to write.
            new.execute("PRAGMA journal_mode = DELETE")
        yield copy
    finally:
        for file in (copy, *_auxiliary_files(copy)):
            file.unlink(missing_ok=True)


def _open_source(source: Path) -> sqlite3.Connection:
    if not may_write(source):
        return connect_for_reading(source, BUSY_SECONDS)
    # Open the database for writing, because SQLite must first recover a database that was not closed properly.
    return sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)


def _verify(copy: Path, source: Path) -> str:
    """Return the schema revision of an intact record. Raises `RecordError`."""
    with _translated_errors(source, copy), closing(sqlite3.connect(copy)) as connection:
        has_version = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        row: tuple[str] | None = None
        if connection.execute(has_version, (VERSION_TABLE,)).fetchone():
            row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
        if row is None:
            raise RecordError(f"{source} holds no eatnas-db record; nothing was changed")
        result = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if result != "ok":
        raise RecordError(f"{source} is damaged ({' '.join(str(result).split())}); nothing was changed")
    return row[0]


def _release_leases(copy: Path, backup: Path, now: float) -> None:
    engine = create_engine_for(sqlite_url(copy))
    try:
        with transaction(engine) as connection:
            for host_id in connection.execute(select(lease.c.host_id).distinct()).scalars().all():
                reclaim_leases(connection, host_id, now)
            events.record_event(connection, now, "restored", detail={"file": backup.name})
    finally:
        engine.dispose()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


@contextmanager
def _exclusive_access(database: Path, busy_seconds: float) -> Iterator[None]:
    """Exclude other programs, and move the write-ahead log into the database unless the database is too damaged.

    A connection that another program still has open would, on closing, remove the log of the restored record.
    """
    if not database.exists():
        yield
        return
    with closing(sqlite3.connect(database, timeout=busy_seconds, isolation_level=None)) as connection:
        try:
            # Leaving WAL mode fails while another connection is open.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConflictError(f"another program has {database} open; end it, then try again") from None
        except sqlite3.DatabaseError:
            pass
        yield


def _keep_previous(database: Path, now: float) -> Path | None:
    """Give the current record a second name and return that name. The file also keeps its first name."""
    if not any(file.exists() for file in (database, *_auxiliary_files(database))):
        return None
    stem = f"{database.name}.before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    names = (database.with_name(stem + (f"-{number}" if number else "")) for number in count())
    previous = next(name for name in names if not name.exists())
    if database.exists():
        try:
            os.link(database, previous)
        except OSError:  # the file system has no hard links
            shutil.copyfile(database, previous)
    for file, name in zip(_auxiliary_files(database), _auxiliary_files(previous), strict=True):
        with suppress(FileNotFoundError):
            file.rename(name)
    return previous


def _auxiliary_files(database: Path) -> list[Path]:
    return [database.with_name(database.name + suffix) for suffix in _AUXILIARY_SUFFIXES]


def _install(copy: Path, target: Path) -> None:
    if target.exists():
        shutil.copymode(target, copy)
    else:
        copy.chmod(0o666 & ~_umask())
    sync_and_replace(copy, target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _translated_errors(source: Path, copy: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        cause = str(error)
        if "full" in cause or "disk I/O" in cause:
            raise RecordError(
                f"the disk of {copy.parent} has no room for a copy of {source} ({cause}); nothing was changed"
            ) from None
        if "not a database" in cause:
            raise RecordError(f"{source} is not an SQLite database; nothing was changed") from None
        if "locked" in cause:
            raise RecordError(f"{source} is locked by another program's open transaction; try again") from None
        raise RecordError(f"{source} cannot be copied ({cause}); nothing was changed") from None
