"""Locks on files that exclude other processes (`flock`). The kernel releases a lock when the process that holds it
ends.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

File = int | IO[Any]
"""An open file or its descriptor."""


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it during the block. Create the file if it is missing."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(file: File) -> bool:
    """Lock a file until it is closed. Return False if another process holds its lock.

    Another process that calls `is_locked` can also cause the result False, so try several times before you give up.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(file: File) -> bool:
    """Return whether another process holds the lock of a file. The check holds a shared lock for a short time."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    unlock(file)
    return False


def unlock(file: File) -> None:
    """Release the lock of a file, which stays open."""
    fcntl.flock(file, fcntl.LOCK_UN)
