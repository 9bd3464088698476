"""Run the user's hook command on a notification, with a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from eatnas_daemon.workers.process_tree import kill_process_tree
from eatnas_db.errors import describe_os_error

MAX_LOG_BYTES: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class HookCommand:
    """A command with its arguments. It runs in `folder` for at most `timeout_seconds`, and its output goes to
    `log_file`.
    """

    arguments: Sequence[str]
    folder: Path
    log_file: Path
    timeout_seconds: float

    def run(self, payload: dict[str, Any]) -> str | None:
        """Run the command with the payload of a notification. Return the error if it fails, otherwise None."""
        try:
            with tempfile.TemporaryFile() as stdin, self._open_log(payload) as log:
                stdin.write(json.dumps(payload).encode())
                stdin.seek(0)
                process = subprocess.Popen(
                    self.arguments,
                    cwd=self.folder,
                    env={**os.environ, **_environment(payload)},
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                try:
                    status = process.wait(self.timeout_seconds)
                except subprocess.TimeoutExpired:
                    kill_process_tree(process.pid)
                    process.wait()
                    return f"the command was killed after {self.timeout_seconds:g} s"
        except OSError as error:
            return f"the command cannot be started: {describe_os_error(error)}"
        if status < 0:
            return f"the command was killed by signal {-status}"
        return f"the command exited with status {status}" if status else None

    def _open_log(self, payload: dict[str, Any]) -> BinaryIO:
        with suppress(OSError):
            if self.log_file.stat().st_size > MAX_LOG_BYTES:
                self.log_file.replace(self.log_file.with_name(f"{self.log_file.name}.1"))
        try:
            log = self.log_file.open("ab", buffering=0)
            line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {payload['event']} of {payload['search']}\n"
            log.write(line.encode())
        except OSError:  # On a full disk, the output is lost, but the notification is delivered.
            return Path(os.devnull).open("ab")
        return log


def _environment(payload: dict[str, Any]) -> dict[str, str]:
    return {
        "EATNAS_EVENT": payload["event"],
        "EATNAS_SEARCH": payload["search"],
        "EATNAS_WORDS": payload["words"],
        "EATNAS_COUNT": str(payload["count"]),
        "EATNAS_CANDIDATE": "" if payload["candidate"] is None else str(payload["candidate"]),
    }
