"""Start the daemon under attack, and read its reports."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from storm.processes import TIMEOUT_SECONDS
from storm.states import DaemonState, Token

T = TypeVar("T")
BENCHMARKS = Path(__file__).parents[1]


class DaemonProcess:
    """A running daemon, its latest state, and every worker that it has started."""

    def __init__(self, home: Path, program: tuple[str, ...], lanes: int = 1) -> None:
        command = [sys.executable, "-m", "storm.served_daemon", str(home), str(lanes), *program]
        with (home / "daemon.err").open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=BENCHMARKS)
        self.state = DaemonState()
        self.workers: dict[int, psutil.Process] = {}
        self.training_since: dict[Token, float] = {}
        """The monotonic time at which each attempt was first seen in training."""
        self.ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            state = DaemonState.from_json(line)
            with self._changed:
                self.state = state
                for slot in state.slots:
                    if slot.pid and slot.pid not in self.workers:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            self.workers[slot.pid] = psutil.Process(slot.pid)
                for slot in state.trainings():
                    if slot.token is not None:
                        self.training_since.setdefault(slot.token, state.at)
                self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def wait_for(self, find: Callable[[DaemonState], T | None], seconds: float = TIMEOUT_SECONDS) -> T | None:
        """Call `find` for every state until its result is true. Return the result, or None if the daemon has ended.

        Raises `TimeoutError` after `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (result := find(self.state)):
                if self.ended:
                    return None
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(
                        f"the daemon has not reported the awaited state within {seconds:g} s; "
                        f"its last report is {self.state.to_json()}"
                    )
            return result
