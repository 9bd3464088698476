"""Follow a record, and write its changes to MLflow until the parent process ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from eatnas_daemon.followers.loop import follow
from eatnas_daemon.mlflow.client import describe_error, identify_store_file, open_store, suggest_repair
from eatnas_daemon.mlflow.problems import clear_problem, problem_file, record_problem
from eatnas_daemon.mlflow.sync import MlflowSync, print_to_stderr
from eatnas_db.database.engine import open_record
from eatnas_db.errors import EatnasError
from eatnas_db.garbage_collection import skip_last_collection
from eatnas_db.settings import load_settings
from eatnas_db.text_encoding import let_output_escape

EVERY_SECONDS: Final = 5.0


class LiveSync:
    """Writes a record's changes to MLflow repeatedly, and connects again after each error."""

    def __init__(self, engine: Engine, tracking_uri: str, problem_file: Path | None = None) -> None:
        self._engine, self._tracking_uri, self._problem_file = engine, tracking_uri, problem_file
        self._supervisor_pid = os.getppid()
        self._sync: MlflowSync | None = None
        self._store_file: tuple[int, int] | None = None

    def update(self, changed: bool, last: bool) -> None:
        """Write the record's changes if it has `changed`. Update the pictures that are due.

        The `last` call updates all outdated pictures, and marks the candidates that the supervisor still leases as
        abandoned.
        """
        if self._store_file is not None and identify_store_file(self._tracking_uri) != self._store_file:
            # Restart this program, because MLflow keeps a deleted file open and would continue to write to it.
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606
        sync, self._sync = self._sync, None  # restored only if this call succeeds
        if sync is None and changed:
            client = open_store(self._engine, self._tracking_uri, print_to_stderr)
            self._store_file = identify_store_file(self._tracking_uri)
            if self._problem_file is not None:
                clear_problem(self._problem_file)
            sync = MlflowSync(self._engine, client, pictures=True, log=self._log)
        if sync is None:
            return
        if changed:
            sync.sync_changes(self._supervisor_pid if last else None)
        sync.update_pictures(at_once=last)
        self._sync = sync

    def log_error(self, error: Exception) -> None:
        """Print an error to stderr in one line, and store it for `daemon status`."""
        self._log(f"{describe_error(self._tracking_uri, error)}; {suggest_repair(self._tracking_uri)}")

    def _log(self, message: str) -> None:
        print_to_stderr(message)
        if self._problem_file is not None:
            record_problem(self._problem_file, message)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, and follow the record until the parent process ends."""
    parser = argparse.ArgumentParser(
        prog="python -m eatnas_daemon.mlflow",
        description=f"{__doc__} EATNAS_DB_URL names the record, and MLFLOW_TRACKING_URI names the MLflow store.",
    )
    parser.add_argument(
        "--every",
        type=float,
        default=EVERY_SECONDS,
        help="seconds between two checks for changes; default: %(default)s",
    )
    let_output_escape()
    skip_last_collection()
    options = parser.parse_args(arguments)
    # Read URLs from the environment: they may hold passwords, and every user can read the arguments of a process.
    database_url, tracking_uri = os.environ.get("EATNAS_DB_URL"), os.environ.get("MLFLOW_TRACKING_URI")
    if not database_url or not tracking_uri:
        parser.error("set EATNAS_DB_URL and MLFLOW_TRACKING_URI")
    # End at once on SIGTERM: under load, a Python signal handler runs late, and an interpreter with MLflow takes
    # minutes to exit. MLflow's store and the record stay intact, whenever the process ends.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        engine = open_record(database_url)
        live_sync = LiveSync(engine, tracking_uri, problem_file(load_settings(os.environ)))
        # Catch every exception, because this program must survive all errors of MLflow, its store and the network.
        follow(engine, options.every, live_sync.update, live_sync.log_error, Exception)
    except EatnasError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
