"""Keeps a follower going: a process that reads the record (for MLflow, for hooks), and that nothing waits for."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from eatnas_db.database.changes import watch_changes

RESTART_SECONDS: Final = 30.0
PYTHON: Final = ("nice", "-n", "10", sys.executable, "-m")


class Follower:
    """Starts a module on a record, and starts it again if it dies."""

    def __init__(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Addresses by the environment: they may hold passwords, and everybody can read a process's arguments.
        self._program, self._environment = (*PYTHON, *program), dict(environment)
        self._log_file, self._monotonic = log_file, monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._wanted = False

    @property
    def pid(self) -> int | None:
        """The process's number, while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it. It leaves by itself when this process ends, however it ends."""
        self._wanted, self._started_at = True, self._monotonic()
        # That a view of a search cannot be started (a full disk, no process left) must not end the search.
        with contextlib.suppress(OSError):
            self._process = self._launch()

    def ensure(self) -> None:
        """Start it again if it has died, half a minute after the last start at the earliest."""
        if self._wanted and self.pid is None and self._monotonic() - self._started_at >= RESTART_SECONDS:
            self._close_input()
            self.start()

    def stop(self) -> None:
        """Tell it to write the last and to leave; nothing waits for that."""
        self._wanted = False
        self._close_input()

    def _launch(self) -> subprocess.Popen[bytes]:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            # Its own session, so that Ctrl-C in the terminal leaves it to write the last runs.
            return subprocess.Popen(
                self._program,
                env={**os.environ, **self._environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


def follow(
    engine: Engine,
    every: float,
    look: Callable[[bool, bool], None],
    tell: Callable[[Exception], None],
    troubles: type[Exception],
) -> None:
    """In the follower itself: `look(due, last)` every so many seconds until the parent ends, and once more then.

    `due`: something was written since the last look that went well. Of troubles one after the other, the first is told.
    """
    parent = os.getppid()
    watch = watch_changes(engine)
    due = told = ended = False
    while True:
        # The last round comes after the end, so that what was written last is there too.
        ended = ended or os.getppid() != parent
        due = watch.changed() or due or ended
        try:
            look(due, ended)
            due = told = False
        except troubles as error:
            due = True
            if not told:
                tell(error)
            told = True
        if ended:
            break
        ended = _input_ended(every)
    watch.close()


def _input_ended(seconds: float) -> bool:
    """Wait; whether the pipe that is our standard input was closed meanwhile."""
    try:
        piped = stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:
        piped = False
    if not piped:
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([0], [], [], seconds)
    return bool(ready) and os.read(0, 4096) == b""
