"""Lock a record for one daemon. The kernel releases the lock when the process of the daemon ends."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from eatnas_daemon.lock_holder import UNKNOWN_PROCESS, LockHolder, current_process, parse_holder
from eatnas_db.errors import ConflictError
from eatnas_db.file_lock import is_locked, try_lock, unlock
from eatnas_db.settings import Settings

MAX_ATTEMPTS: Final = 50
READ_ATTEMPTS: Final = 5
RETRY_SECONDS: Final = 0.02
DAEMON: Final = "a daemon"


class LinkedRecordError(ConflictError):
    """Another daemon is working on this database file, which it has opened through another path (a link or a mount)."""


@dataclass(frozen=True, slots=True)
class RecordUser:
    """The process that has exclusive use of a record; `program` is its name in messages."""

    process: LockHolder
    program: str = DAEMON

    @property
    def is_daemon(self) -> bool:
        """Whether the process is a daemon or the command `run`, rather than a command that changes the database."""
        return self.program == DAEMON

    def __str__(self) -> str:
        return f"{self.program} ({self.process})"


@contextmanager
def hold_daemon_lock(lock_file: Path, program: str = DAEMON) -> Iterator[None]:
    """Hold the lock during a block, and write the identity of this process into the lock file.

    Raises `ConflictError` if another process holds the lock.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as file:
        _acquire(file, lock_file)
        file.truncate(0)
        content = {**current_process().to_json(), "program": program}
        try:
            os.write(file.fileno(), json.dumps(content).encode())
        except OSError as error:
            raise ConflictError(
                f"{lock_file} cannot be written ({error.strerror}); free some disk space, then try again"
            ) from None
        yield


@contextmanager
def hold_record(settings: Settings, program: str = DAEMON) -> Iterator[None]:
    """Hold a record during a block: lock the lock file and, on SQLite, the database file itself.

    Raises `ConflictError` if another process holds one of these locks.
    """
    with hold_daemon_lock(settings.lock_file, program):
        descriptor = None if settings.database_file is None else _open_for_lock(settings.database_file)
        if descriptor is not None and not try_lock(descriptor):
            raise LinkedRecordError(
                f"another daemon uses {settings.database_file} through another path (a link or a mount); stop that "
                "daemon first"
            )
        try:
            yield
        finally:
            if descriptor is not None:
                unlock(descriptor)


def find_record_user(lock_file: Path) -> RecordUser | None:
    """Return the process that holds the lock, or None if no process does."""
    for _ in range(READ_ATTEMPTS):
        try:
            with lock_file.open("r", errors="replace") as file:
                if not is_locked(file):
                    return None
                user = _parse_user(file.read())
        except FileNotFoundError:
            return None
        if user is not None:
            return user
        # The process holds the lock, but may not have written its name yet.
        time.sleep(RETRY_SECONDS)
    return RecordUser(UNKNOWN_PROCESS, "an unknown process")


_opened: Final[dict[tuple[int, int], int]] = {}
"""The descriptors of locked database files, by device and inode. `_open_for_lock` explains why they stay open."""


def _open_for_lock(database: Path) -> int | None:
    """Return a descriptor for a lock that applies to all hard links of the file; None if the system has no such lock.

    Never close the descriptor: this would release SQLite's own locks on the file, because POSIX locks belong to the
    process.
    """
    # On other systems, this lock would conflict with SQLite's own locks.
    if sys.platform != "linux" or not database.exists():
        return None
    status = database.stat()
    key = status.st_dev, status.st_ino
    if key not in _opened:
        _opened[key] = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
    return _opened[key]


def _parse_user(text: str) -> RecordUser | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if type(content) is int:
        content = {"pid": content}
    process = parse_holder(content)
    return None if process is None else RecordUser(process, str(content.get("program", DAEMON))[:64])


def _acquire(file: TextIO, lock_file: Path) -> None:
    for _ in range(MAX_ATTEMPTS):
        if try_lock(file):
            return
        user = find_record_user(lock_file)
        if user is not None:
            raise ConflictError(f"{user} is already working on this record; `fuser {lock_file}` finds the process")
        # Another process may briefly hold the lock while it reads the pid.
        time.sleep(RETRY_SECONDS)
    raise ConflictError(f"other processes repeatedly locked {lock_file}; try again")
