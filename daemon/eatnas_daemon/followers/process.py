"""Start a follower: a process that reads the record and passes its changes to MLflow or to hooks. Searches do not wait
for the follower.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from eatnas_db.interpreter import python_command

RESTART_SECONDS: Final = 30.0
"""The shortest time between two starts of a follower."""


def low_priority_python(nice: str | None) -> tuple[str, ...]:
    """Return the start of a command that runs a Python module at low priority. `nice` is the path of the program
    `nice`, or None.
    """
    return (*((nice, "-n", "10") if nice else ()), *python_command("-m"))


class Follower:
    """A follower process, which runs a module. `restart_if_dead` starts it again.

    The process ends by itself when its parent ends or its stdin is closed.
    """

    def __init__(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Pass URLs in the environment: they may hold passwords, and every user can read the arguments of a process.
        self._command, self._environment = (*low_priority_python(shutil.which("nice")), *program), dict(environment)
        self._log_file, self._monotonic = log_file, monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._running = False

    @property
    def pid(self) -> int | None:
        """Return the process's id, or None if it is not alive."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process. Errors are ignored, because a follower that cannot start must not end a search."""
        self._running, self._started_at = True, self._monotonic()
        with contextlib.suppress(OSError):
            self._process = self._launch()

    def restart_if_dead(self) -> None:
        """Start the process again if it has died, at the earliest `RESTART_SECONDS` after the last start."""
        if self._running and self.pid is None and self._monotonic() - self._started_at >= RESTART_SECONDS:
            self._close_input()
            self.start()

    def stop(self) -> None:
        """Tell the process to finish its work and exit. Does not wait for the exit."""
        self._running = False
        self._close_input()

    def _launch(self) -> subprocess.Popen[bytes]:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            # Start a new session, so that Ctrl-C in the terminal does not interrupt the last writes.
            return subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
