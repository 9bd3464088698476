"""Stop on signals. The first signal makes the supervisor drain, and the second signal ends this process even if it is
blocked.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
EXIT_STATUS: Final = 75
"""The exit status of a process that ends without its last writes (`EX_TEMPFAIL`)."""
GRACE_SECONDS: Final = 2.0
"""The seconds between the second signal and the end of the process."""


@contextmanager
def stop_on_signals(
    stop: Callable[[], None], kill: Callable[[], None], grace_seconds: float = GRACE_SECONDS
) -> Iterator[None]:
    """Call `stop` on each signal. If the block has not ended soon after the second signal, call `kill` and exit.

    A thread counts the signals and calls `kill`. A Python signal handler would run too late: it must wait until the
    main thread returns from a blocking call, for example a statement on the database.
    """
    ended = threading.Event()
    with _signals() as receiver:
        previous = {number: signal.signal(number, lambda *_: stop()) for number in STOP_SIGNALS}
        watcher = threading.Thread(target=_watch, args=(receiver, ended, kill, grace_seconds), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            for number, handler in previous.items():
                signal.signal(number, handler)
    watcher.join()


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket from which the number of each signal can be read. When the block ends, the other end of the socket
    is closed.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield receiver
    finally:
        signal.set_wakeup_fd(previous)
        sender.close()


def _watch(receiver: socket.socket, ended: threading.Event, kill: Callable[[], None], grace_seconds: float) -> None:
    count = 0
    with receiver:
        while received := receiver.recv(100):
            count += sum(number in STOP_SIGNALS for number in received)
            if count >= 2:
                break
        else:
            return
    if not ended.wait(grace_seconds):
        try:
            kill()
        finally:
            os._exit(EXIT_STATUS)
