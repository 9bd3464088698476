"""Limit the time that a plug-in's code may take in this process.

The daemon calls plug-ins to decide births, so a function that never returns would otherwise stop the daemon.
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
"""The interval in seconds at which the exception is raised again, because the code may catch it the first time."""


class _Expired(BaseException):
    """An exception that is raised in the code of a plug-in when the time limit is over.

    It is not an `Exception`, so that a handler of `Exception` in the code does not catch it.
    """


def plugin_seconds() -> float:
    """Return the limit in seconds for one call of a plug-in: `EATNAS_PLUGIN_SECONDS` if positive, else the default."""
    try:
        seconds = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        return DEFAULT_SECONDS
    return seconds if 0 < seconds < threading.TIMEOUT_MAX else DEFAULT_SECONDS


def call_within_limit(function: Callable[..., T], *arguments: object, seconds: float | None = None) -> T:
    """Call a plug-in's function. Raises `TimeoutError` after `seconds`, by default `plugin_seconds`.

    The exception interrupts Python code. A blocking call is interrupted in the main thread and abandoned in other
    threads. A computation in C is abandoned in other threads if it releases the GIL; otherwise this function returns
    only after the computation.
    """
    seconds = plugin_seconds() if seconds is None else seconds
    if threading.current_thread() is not threading.main_thread():
        return _call_in_thread(function, arguments, seconds)
    try:
        with _limit_by_signal(seconds):
            return function(*arguments)
    except _Expired:
        raise _overdue(seconds) from None


def _overdue(seconds: float) -> TimeoutError:
    return TimeoutError(f"it did not return within {seconds:g} s")


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
        if remaining:  # other code has set the timer
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - started), 0.001), interval)


def _call_in_thread(function: Callable[..., T], arguments: tuple[object, ...], seconds: float) -> T:
    """Call a function in a new thread, which is abandoned if the function does not return in time.

    No exception can interrupt a wait in C, such as `time.sleep`, in any thread but the main one.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="plug-in", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if errors:
        raise errors[0]
    threading.Thread(target=_end, args=(thread,), name="end of a plug-in", daemon=True).start()
    raise _overdue(seconds)


def _end(thread: threading.Thread) -> None:
    """Raise an exception in a thread repeatedly until the thread ends, so that an endless loop stops."""
    # Import ctypes only here, because it is slow to load.
    import ctypes

    while thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Expired))
        thread.join(REPEAT_SECONDS)
