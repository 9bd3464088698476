"""Detect changes that a user's own training function has left in its process, in which other candidates train later."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psutil
import torch

_STATES: Final[Mapping[str, Callable[[], Any]]] = {
    "a changed working directory": os.getcwd,
    "a changed sys.stdout": lambda: id(sys.stdout),
    "a changed sys.stderr": lambda: id(sys.stderr),
    "a changed default dtype of torch": torch.get_default_dtype,
    "a changed default device of torch": lambda: str(torch.get_default_device()),
    "a changed precision of torch's matrix products": torch.get_float32_matmul_precision,
}
"""Functions that read the parts of the process's state that a program can change. Each key describes a change of its
part.

Environment variables and `sys.path` are left out, because many libraries change them when they are imported.
"""
END_SECONDS: Final = 0.2
"""The time, in seconds, to wait for threads and child processes that are about to end."""


class ProcessState:
    """The state of this process before a program runs."""

    def __init__(self) -> None:
        self._states = _read_states()
        self._threads = set(threading.enumerate())
        self._children = {child.pid for child in _list_children()}

    def end_leftovers(self) -> str:
        """Kill new child processes. Return a description of remaining threads and changed state, or an empty string.

        Threads cannot be ended, and changes are not undone: a new process must replace this one.
        """
        threads = [thread.name for thread in self._wait_for_threads()]
        found = [_count(len(threads), f"thread{'s' * (len(threads) > 1)} ({', '.join(sorted(threads)[:3])})")]
        children = [child for child in _list_children() if child.pid not in self._children]
        _, children = psutil.wait_procs(children, END_SECONDS)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, END_SECONDS)
        found.append(_count(len(children), "child processes" if len(children) > 1 else "child process"))
        states = _read_states()
        found += [words for words, value in states.items() if value != self._states[words]]
        return ", ".join(part for part in found if part)

    def _wait_for_threads(self) -> list[threading.Thread]:
        """Return the new threads that do not end within `END_SECONDS`."""
        deadline = time.monotonic() + END_SECONDS
        new = [thread for thread in threading.enumerate() if thread not in self._threads and not _is_harmless(thread)]
        for thread in new:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread for thread in new if thread.is_alive()]


def _is_harmless(thread: threading.Thread) -> bool:
    return type(thread).__module__.startswith("tqdm.")  # every tqdm bar leaves a thread that only watches bars


def _count(number: int, words: str) -> str:
    return f"{number} {words}" if number else ""


def _read_states() -> dict[str, Any]:
    states: dict[str, Any] = {}
    for words, read in _STATES.items():
        try:
            states[words] = read()
        except OSError:  # the working directory no longer exists
            states[words] = None
    return states


def _list_children() -> list[psutil.Process]:
    """Return the running descendants of this process."""
    with contextlib.suppress(psutil.Error):
        return [child for child in psutil.Process().children(recursive=True) if _is_running(child)]
    return []


def _is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
