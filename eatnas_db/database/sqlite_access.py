"""Open SQLite files that this user may read but not write, without leaving other files next to them.

In WAL mode, even a reader creates files: the shared memory (`-shm`) and the log. A reader without the right to write
the database must not create them, because the owner of the database could not write to these files afterwards.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eatnas_db.errors import RecordError

ATTEMPTS: Final = 3
MAX_COPY_BYTES: Final = 64 * 2**20
"""A database file up to this size is copied to memory."""
UNSHARED: Final = "mode=ro&immutable=1"
"""The URI parameters for a file that no program is writing: SQLite then takes no locks and notices no writer."""
_FORMAT_BYTES: Final = slice(18, 20)
"""The bytes of a database file in which SQLite stores whether the database is in WAL mode."""


class FileChangedError(RecordError):
    """Another program has begun to write a database file that was read without locks."""


@dataclass(frozen=True, slots=True)
class FileState:
    """The attributes of a database file that change when a program writes it."""

    file: Path
    inode: int
    bytes: int
    modified_at: int
    has_log: bool

    @classmethod
    def of(cls, file: Path) -> FileState:
        """Return the current state of a file. Raises `OSError`."""
        status = file.stat()
        return cls(file, status.st_ino, status.st_size, status.st_mtime_ns, _log_of(file).exists())

    def require_unchanged(self) -> None:
        """Raise `FileChangedError` if the file has changed."""
        if FileState.of(self.file) != self:
            raise FileChangedError(f"another program began to write {self.file} while it was being read; try again")


class ReadingConnection(sqlite3.Connection):
    """A connection that can check whether all data that it has read come from one state of the file."""

    state_before: FileState | None = None
    """The state of the file when it was opened; None if a lock keeps other programs from writing it."""

    def require_unchanged(self) -> None:
        """Raise `FileChangedError` if the data that were read may mix two states of the file."""
        if self.state_before is not None:
            self.state_before.require_unchanged()


def may_write(file: Path) -> bool:
    """Return whether this process may write a database file and the files that SQLite keeps next to it."""
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)


def connect_for_reading(file: Path, timeout: float) -> ReadingConnection:
    """Open an existing database file for reads. Raises `RecordError`, and the errors of `sqlite3`.

    The connection may be used by several threads, one at a time.
    """
    for _ in range(ATTEMPTS):
        try:
            connection = _connect(file, timeout)
        except FileChangedError:
            continue
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()  # In the meantime, the last writer may have closed the file and removed its log.
        else:
            return connection
    return _connect(file, timeout)


def _connect(file: Path, timeout: float) -> ReadingConnection:
    """Open a file. Raises `FileChangedError` if a program begins to write the file at the same time."""
    parameters = _parameters(file)
    before = FileState.of(file)
    if parameters == UNSHARED and before.bytes <= MAX_COPY_BYTES:
        return copy_to_memory(file, before)
    uri = f"{file.absolute().as_uri()}?{parameters}"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout, check_same_thread=False, factory=ReadingConnection)
    if parameters == UNSHARED:
        connection.state_before = before
    return connection


def copy_to_memory(file: Path, before: FileState) -> ReadingConnection:
    """Copy a whole file to memory, and return a connection that owns the copy."""
    content = bytearray(file.read_bytes())
    before.require_unchanged()
    content[_FORMAT_BYTES] = b"\1\1"  # a database in memory has no log
    connection = sqlite3.connect(":memory:", check_same_thread=False, factory=ReadingConnection)
    connection.deserialize(bytes(content))
    return connection


def _parameters(file: Path) -> str:
    if may_write(file):
        return "mode=ro"
    log, memory = _log_of(file), file.with_name(f"{file.name}-shm")
    if memory.exists() and log.exists():
        return "mode=ro"  # `-shm` holds the index of the log, so this process can read without write permission.
    if _size(log):
        raise RecordError(
            f"{file} was not closed properly, and its recovery needs write permission on its folder; ask its owner to "
            f"run `eatnas-db search list`, or copy the database and {log.name} to your own folder"
        )
    # No program has the file open for writing: otherwise its log would exist.
    return UNSHARED


def _log_of(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
