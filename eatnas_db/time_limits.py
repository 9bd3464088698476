"""Limit the time that code of another package may take, in this process.

A function of a package that never returns would otherwise stop the daemon, which decides births with it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

T = TypeVar("T")

VARIABLE: Final = "EATNAS_PLUGIN_SECONDS"
DEFAULT_SECONDS: Final = 10.0
REPEAT_SECONDS: Final = 1.0
"""The code may catch the first exception, so it is raised again at this interval."""


class _Expired(BaseException):
    """Not an `Exception`, so that the code does not take it for an error of its own."""


def plugin_seconds() -> float:
    """Return the limit for one call of a package's code: `EATNAS_PLUGIN_SECONDS`, if that is a positive number."""
    try:
        seconds = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        return DEFAULT_SECONDS
    return seconds if 0 < seconds < threading.TIMEOUT_MAX else DEFAULT_SECONDS


def call_within_limit(function: Callable[..., T], *arguments: object, seconds: float | None = None) -> T:
    """Call a function of a package. Raises `TimeoutError` if it does not return in time, by default `plugin_seconds`.

    In the main thread a signal also ends a wait, for example `time.sleep`. In another thread only Python code ends.
    """
    seconds = plugin_seconds() if seconds is None else seconds
    limit = _limit_by_signal if threading.current_thread() is threading.main_thread() else _limit_by_thread
    try:
        with limit(seconds):
            return function(*arguments)
    except _Expired:
        raise TimeoutError(f"it did not return within {seconds:g} s") from None


@contextmanager
def _limit_by_signal(seconds: float) -> Iterator[None]:
    is_running, started = True, time.monotonic()

    def expire(*_: object) -> None:
        if is_running:
            raise _Expired

    handler = signal.signal(signal.SIGALRM, expire)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_SECONDS)
    try:
        yield
        is_running = False
    finally:
        is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:  # another user of the timer
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - started), 0.001), interval)


@contextmanager
def _limit_by_thread(seconds: float) -> Iterator[None]:
    # Only here, because loading it takes time.
    import ctypes

    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    caller, lock, is_over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), threading.Event()

    def watch() -> None:
        pause = seconds
        while not is_over.wait(pause):
            with lock:
                if not is_over.is_set():
                    raise_in(caller, ctypes.py_object(_Expired))
            pause = REPEAT_SECONDS

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        with lock:
            is_over.set()
            raise_in(caller, None)  # an exception that has not been raised yet
