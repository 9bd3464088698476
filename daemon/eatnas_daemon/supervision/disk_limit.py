"""Keep the size of the home folder below its limit while searches run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Engine

from eatnas_db import disk_cleanup
from eatnas_db.errors import RecordError
from eatnas_db.settings import Settings
from eatnas_db.unchanged_files import UnchangedFiles


class DiskLimit:
    """When the home folder exceeds `max_bytes` (None: no limit), removes files that no training needs.

    Checks rarely, because a check reads the size of every file, and the supervisor serves no workers meanwhile.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        max_bytes: int | None,
        interval_seconds: float,
        wall: Callable[[], float],
    ) -> None:
        self._engine, self._settings, self._max_bytes = engine, settings, max_bytes
        self._interval_seconds, self._wall = interval_seconds, wall
        self._check_at = 0.0
        self._unchanged = UnchangedFiles()

    def enforce(self, now: float) -> None:
        """Check the size when a check is due."""
        if self._max_bytes is None or now < self._check_at:
            return
        self._check_at = now + self._interval_seconds
        with suppress(RecordError):
            disk_cleanup.free_disk_space(
                self._engine, self._settings, self._max_bytes, self._unchanged, monotonic=now, wall=self._wall()
            )
