"""Set how often Python's garbage collector runs."""

from __future__ import annotations

import atexit
import gc
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""The number of new objects after which the garbage collector runs in a quick command; they occupy some megabytes."""
_USUAL: Final = gc.get_threshold()


def defer_collection() -> None:
    """Run the garbage collector rarely, for quick commands: almost all their objects live until the process ends."""
    gc.set_threshold(YOUNG_OBJECTS)


def collect_as_usual() -> None:
    """Run the garbage collector as often as Python does by default, for programs that run for hours.

    In such programs, a reference cycle of few objects may hold much memory, for example a figure or the frames of a
    traceback.
    """
    gc.set_threshold(*_USUAL)


def skip_last_collection() -> None:
    """Let this program exit without Python's last search for garbage.

    If the program has loaded torch or MLflow, this search would take half a second of processor time.
    """
    atexit.register(gc.freeze)
