"""One supervisor for one record: a lock beside the database that the system drops when its holder dies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from eatnas_db.errors import ConflictError
from eatnas_db.file_lock import is_locked, try_lock

LOOKS: Final = 50
LOOK_SECONDS: Final = 0.02


@contextmanager
def hold(lock_file: Path) -> Iterator[None]:
    """Hold the lock. Raises `ConflictError` that names the process which holds it already."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as file:
        _take(file, lock_file)
        file.truncate(0)
        try:
            os.write(file.fileno(), str(os.getpid()).encode())
        except OSError as error:
            raise ConflictError(
                f"{lock_file} cannot be written ({error.strerror}); make room, then try again"
            ) from None
        yield


def _take(file: TextIO, lock_file: Path) -> None:
    for _ in range(LOOKS):
        if try_lock(file):
            return
        holder = holder_of(lock_file)
        if holder is not None:
            raise ConflictError(f"a daemon (pid {holder}) works on this record already")
        # Somebody only looked who holds it, which takes a moment's lock.
        time.sleep(LOOK_SECONDS)
    raise ConflictError(
        f"{lock_file} is locked by a process that does not say which; try again, or see `fuser {lock_file}`"
    )


def holder_of(lock_file: Path) -> int | None:
    """The pid of the supervisor that holds the lock, or None when nobody does."""
    try:
        with lock_file.open("r") as file:
            if is_locked(file):
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None
