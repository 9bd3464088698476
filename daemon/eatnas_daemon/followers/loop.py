"""The loop of a follower process: it calls a function at intervals until the parent process ends."""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from eatnas_db.database.changes import watch_changes
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.file_identity import FileIdentity


def follow(
    engine: Engine,
    interval_seconds: float,
    update: Callable[[bool, bool], None],
    log_error: Callable[[Exception], None],
    errors: type[Exception],
) -> None:
    """Call `update(changed, last)` at each interval until the parent process ends, and once more after its end.

    Return early if the database file is deleted or replaced.

    `changed` is true if another program has committed since the last successful call. Exceptions of the type `errors`
    are logged; of several in a row, only the first.
    """
    parent = os.getppid()
    database = None if is_postgresql(engine) else FileIdentity(Path(str(engine.url.database)), "the database")
    watch = watch_changes(engine)
    changed = failing = ended = False
    while True:
        # Make the last call after the end of the parent, so that it sees the parent's last writes.
        ended = ended or os.getppid() != parent
        if database is not None and not database.is_unchanged:
            # If a new record has replaced the file, another daemon's follower reads the new record.
            break
        changed = watch.changed() or changed or ended
        try:
            update(changed, ended)
            changed = failing = False
        except errors as error:
            changed = True
            if not failing:
                log_error(error)
            failing = True
        if ended:
            break
        ended = _wait_for_end_of_input(interval_seconds)
    watch.close()


def _wait_for_end_of_input(seconds: float) -> bool:
    """Wait for this number of seconds. If stdin is a pipe and is closed meanwhile, return True early."""
    try:
        piped = stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:
        piped = False
    if not piped:
        time.sleep(seconds)
        return False
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and os.read(0, 4096) == b""
