"""Keeps MLflow's follower going: a process of its own, that nothing waits for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

RESTART_SECONDS: Final = 30.0
PROGRAM: Final = ("nice", "-n", "10", sys.executable, "-m", "eatnas_daemon.tracking")


class Follower:
    """Starts `eatnas_daemon.tracking` on a record, and starts it again if it dies."""

    def __init__(
        self,
        database_url: str,
        tracking_uri: str,
        log_file: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # By the environment: addresses may hold passwords, and everybody can read a process's arguments.
        self._environment = {"EATNAS_DB_URL": database_url, "MLFLOW_TRACKING_URI": tracking_uri}
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
                PROGRAM,
                env={**os.environ, **self._environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
