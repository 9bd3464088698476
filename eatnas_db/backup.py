"""Copies of a record: made while it is in use, and put back in its place. Whole, or not there."""

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
from typing import Any, Final

from sqlalchemy import select

from eatnas_db import events, transitions
from eatnas_db.atomic_files import sync_and_replace
from eatnas_db.database.engine import BUSY_SECONDS, create_engine_for
from eatnas_db.database.filesystem import refuse_network_file_system
from eatnas_db.database.transactions import transaction
from eatnas_db.errors import ConflictError, NotFoundError, RecordError
from eatnas_db.schema.record import REVISION, VERSION_TABLE
from eatnas_db.schema.trainings import lease

_SHARES: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database while it is open."""
EXCLUSIVE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class BackupResult:
    """A whole record in one file: its version and its size."""

    file: Path
    revision: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What was put in place, and under which name the record that was there is kept (None: there was none)."""

    revision: str
    previous: Path | None


def back_up(source: Path, target: Path, *, force: bool = False) -> BackupResult:
    """Copy a record into one file, as it is at this moment, while others go on writing to it.

    Raises `RecordError` where there is no whole record, `ConflictError` where `target` is there and not `force`.
    """
    if not source.exists():
        raise RecordError(f"no record at {source}; `eatnas-db init` makes one")
    _require_target(source, target, force)
    with _copy(source, target) as copy:
        revision = _verified(copy, source)
        _put(copy, target)
    return BackupResult(target, revision, target.stat().st_size)


def restore(backup: Path, database: Path, *, now: float, busy_seconds: float = EXCLUSIVE_SECONDS) -> RestoreResult:
    """Put a copy of `backup` in the place of a record that nobody has open, and keep what was there under another name.

    Leases in it are taken back: whoever held them knows nothing of this record. The caller holds the daemon's lock.
    Raises `NotFoundError`, `RecordError`, `ConflictError`; then nothing has changed.
    """
    if not backup.is_file():
        raise NotFoundError(f"no file {backup}; name one that `eatnas-db db backup` has made")
    if database.exists() and backup.samefile(database):
        raise ConflictError(f"{backup} is the record itself: there is nothing to restore")
    refuse_network_file_system(database, Path("/proc/mounts"))
    with _copy(backup, database) as copy:
        revision = _verified(copy, backup)
        if revision > REVISION:
            raise RecordError(
                f"{backup} is of a newer version ({revision}; this program: {REVISION}); update eatnas-db to restore it"
            )
        if revision == REVISION:
            _take_over(copy, backup, now)
        with _alone(database, busy_seconds):
            kept = _set_aside(database, now)
            _put(copy, database)
    return RestoreResult(revision, kept)


def _require_target(source: Path, target: Path, force: bool) -> None:
    if target.is_dir() or not target.parent.is_dir():
        raise NotFoundError(f"{target} cannot be a file: give the name of a file in a folder that is there")
    if target.exists() and target.samefile(source):
        raise ConflictError(f"{target} is the record itself; choose another file")
    if any(share.exists() for share in _shares(target)):
        raise ConflictError(f"{target} is a database that is open, or was never closed; choose another name")
    if target.exists() and not force:
        raise ConflictError(f"{target} is there already; choose another name, or add --force to replace it")


@contextmanager
def _copy(source: Path, target: Path) -> Iterator[Path]:
    """A copy beside `target`, under a name of its own that is gone afterwards."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    copy = Path(name)
    try:
        with (
            _in_words(source, copy),
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as old,
            closing(sqlite3.connect(copy)) as new,
        ):
            # In one step: in several, a writer in between would have it begin anew each time.
            old.backup(new)
            # A file in WAL mode could not be read where nobody may write.
            new.execute("PRAGMA journal_mode = DELETE")
        yield copy
    finally:
        for file in (copy, *_shares(copy)):
            file.unlink(missing_ok=True)


def _verified(copy: Path, source: Path) -> str:
    """The revision of a record that is whole."""
    with _in_words(source, copy), closing(sqlite3.connect(copy)) as connection:
        has_version = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        found: Any = None
        if connection.execute(has_version, (VERSION_TABLE,)).fetchone():
            found = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
        if found is None:
            raise RecordError(f"{source} holds no eatnas-db record; nothing was changed")
        damage = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if damage != "ok":
        raise RecordError(f"{source} is damaged ({' '.join(str(damage).split())}); nothing was changed")
    return str(found[0])


def _take_over(copy: Path, backup: Path, now: float) -> None:
    engine = create_engine_for(f"sqlite:///{copy}")
    try:
        with transaction(engine) as connection:
            for host_id in connection.execute(select(lease.c.host_id).distinct()).scalars().all():
                transitions.reclaim_leases(connection, host_id, now)
            events.record_event(connection, now, "restored", detail={"file": backup.name})
    finally:
        engine.dispose()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


@contextmanager
def _alone(database: Path, busy_seconds: float) -> Iterator[None]:
    """Nobody else has the record open, and all of it is in its one file, unless it is too damaged to be opened.

    A connection that still had it open would remove the new record's write-ahead log when it closes.
    """
    if not database.exists():
        yield
        return
    with closing(sqlite3.connect(database, timeout=busy_seconds, isolation_level=None)) as connection:
        try:
            # Leaving WAL mode takes being the only one.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConflictError(f"another program has {database} open; end it, then try again") from None
        except sqlite3.DatabaseError:
            pass
        yield


def _set_aside(database: Path, now: float) -> Path | None:
    """Give a record a second name, so that the first is never without one; its shares go with it."""
    if not any(file.exists() for file in (database, *_shares(database))):
        return None
    stem = f"{database.name}.before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    names = (database.with_name(stem + (f"-{number}" if number else "")) for number in count())
    kept = next(name for name in names if not name.exists())
    if database.exists():
        try:
            os.link(database, kept)
        except OSError:  # a file system without hard links
            shutil.copyfile(database, kept)
    for share, name in zip(_shares(database), _shares(kept), strict=True):
        with suppress(FileNotFoundError):
            share.rename(name)
    return kept


def _shares(database: Path) -> list[Path]:
    return [database.with_name(database.name + share) for share in _SHARES]


def _put(copy: Path, target: Path) -> None:
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
def _in_words(source: Path, copy: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        cause = str(error)
        if "full" in cause or "disk I/O" in cause:
            raise RecordError(
                f"{copy.parent} has no room for a copy of {source} ({cause}); nothing was changed"
            ) from None
        if "not a database" in cause:
            raise RecordError(f"{source} is not an SQLite database; nothing was changed") from None
        if "locked" in cause:
            raise RecordError(f"{source} is held by another program's open transaction; try again") from None
        raise RecordError(f"{source} cannot be copied: {cause}; nothing was changed") from None
