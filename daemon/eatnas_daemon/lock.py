"""One supervisor for one record: a lock beside the database that the system drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eatnas_db.errors import ConflictError


@contextmanager
def hold(lock_file: Path) -> Iterator[None]:
    """Hold the lock. Raises `ConflictError` that names the process which holds it already."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = holder_of(lock_file)
            raise ConflictError(f"a daemon (pid {holder}) works on this record already") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder_of(lock_file: Path) -> int | None:
    """The pid of the supervisor that holds the lock, or None when nobody does."""
    try:
        with lock_file.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None
