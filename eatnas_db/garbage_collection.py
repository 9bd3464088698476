"""Set how often Python searches the objects of this program for garbage."""

from __future__ import annotations

import gc
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""The number of new objects after which a quick command searches for garbage; they take some megabytes."""
_USUAL: Final = gc.get_threshold()


def defer_collection() -> None:
    """Search rarely for garbage. For quick commands: almost all their objects belong to modules and live to the end."""
    gc.set_threshold(YOUNG_OBJECTS)


def collect_as_usual() -> None:
    """Search for garbage as often as Python does by default. For programs that run for hours.

    Cycles of few objects may hold much memory, such as a figure or the frames of a traceback.
    """
    gc.set_threshold(*_USUAL)
