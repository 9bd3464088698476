"""Follow a record until the parent process ends, and start the user's hook command for events of the record."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

from eatnas_daemon.followers.loop import follow
from eatnas_daemon.hooks.notifier import Notifier
from eatnas_db.database.engine import open_record
from eatnas_db.errors import EatnasError, RecordError
from eatnas_db.file_lock import exclusive_lock
from eatnas_db.home_config import HooksConfig, read_hooks
from eatnas_db.settings import Settings, load_settings
from eatnas_db.text_encoding import let_output_escape

INTERVAL_SECONDS: Final = 2.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, and follow the record until the parent process ends."""
    parser = argparse.ArgumentParser(
        prog="python -m eatnas_daemon.hooks",
        description=f"{__doc__} EATNAS_HOME names the home, and EATNAS_DB_URL names the record.",
    )
    parser.add_argument(
        "--since",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="time in seconds since 1970; earlier events are not delivered, unless hooks.json exists; default: 0",
    )
    parser.add_argument(
        "--every", type=float, default=INTERVAL_SECONDS, help="seconds between two checks for events; default: 2"
    )
    options = parser.parse_args(arguments)
    let_output_escape()
    settings = load_settings(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        hooks = read_hooks(settings.home)
        if hooks is not None:
            _run(settings, hooks, options.since, options.every)
    except EatnasError as error:
        sys.exit(str(error))


def _run(settings: Settings, hooks: HooksConfig, since: float, interval_seconds: float) -> None:
    log = _open_daemon_log(settings.logs / "daemon.log")
    engine = open_record(settings.database_url)
    # Wait for the follower of an earlier daemon, which may still deliver its last notifications.
    with exclusive_lock(settings.home / "hooks.lock"):
        notifier = Notifier(engine, settings, hooks, log, since)

        def deliver(changed: bool, last: bool) -> None:
            if changed or notifier.has_pending:
                notifier.deliver(last=last)

        follow(engine, interval_seconds, deliver, lambda error: log.warning("hooks.on_event: %s", error), RecordError)


def _open_daemon_log(file: Path) -> logging.Logger:
    """Return a logger that appends to the daemon's log in its format. After the daemon renames the file, the logger
    uses the new file.
    """
    handler = WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace", delay=True)
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log = logging.getLogger("eatnas.hooks")
    log.handlers, log.propagate = [handler], False
    logging.raiseExceptions = False
    return log


if __name__ == "__main__":
    main()
