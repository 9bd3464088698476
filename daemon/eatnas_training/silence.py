"""End a program whose data set hangs. Unlike a worker, such a program has no other process that watches it."""

from __future__ import annotations

import os
import threading


class SilenceTimer:
    """Ends the process with exit status 1 and a message on stderr if `restart` is not called for `seconds`."""

    def __init__(self, seconds: float, message: str) -> None:
        self._seconds, self._message = seconds, message
        self._timer: threading.Timer | None = None
        self.restart()

    def restart(self) -> None:
        """Start the countdown again."""
        self.stop()
        self._timer = threading.Timer(self._seconds, self._exit)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Stop the countdown."""
        if self._timer is not None:
            self._timer.cancel()

    def _exit(self) -> None:
        os.write(2, f"\n{self._message}\n".encode(errors="replace"))
        os._exit(1)
