"""The lock of the one daemon that works on a record; the kernel releases it when the daemon's process ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from eatnas_db.errors import ConflictError
from eatnas_db.file_lock import is_locked, try_lock

MAX_ATTEMPTS: Final = 50
RETRY_SECONDS: Final = 0.02


@contextmanager
def hold_daemon_lock(lock_file: Path) -> Iterator[None]:
    """Hold the lock for the length of a block, and write this process's pid into its file.

    Raises `ConflictError` if another process holds it.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as file:
        _acquire(file, lock_file)
        file.truncate(0)
        try:
            os.write(file.fileno(), str(os.getpid()).encode())
        except OSError as error:
            raise ConflictError(
                f"{lock_file} cannot be written ({error.strerror}); free some disk space, then try again"
            ) from None
        yield


def find_daemon_pid(lock_file: Path) -> int | None:
    """Return the pid of the process that holds the lock, or None if no process does."""
    try:
        with lock_file.open("r") as file:
            if is_locked(file):
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None


def _acquire(file: TextIO, lock_file: Path) -> None:
    for _ in range(MAX_ATTEMPTS):
        if try_lock(file):
            return
        pid = find_daemon_pid(lock_file)
        if pid is not None:
            raise ConflictError(f"a daemon (pid {pid}) works on this record already")
        # Another process holds the lock for a moment only, to read the pid.
        time.sleep(RETRY_SECONDS)
    raise ConflictError(
        f"{lock_file} is locked by an unknown process; try again, or find the process with `fuser {lock_file}`"
    )
