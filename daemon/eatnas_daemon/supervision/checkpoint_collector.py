"""Remove this host's checkpoint files that the record no longer names, while searches are running."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine

from eatnas_db.checkpoint_collection import collect_checkpoints
from eatnas_db.errors import RecordError
from eatnas_db.unchanged_files import UnchangedFiles


class CheckpointCollector:
    """Cleans the artifacts folder of a host at once, and then every `interval_seconds`.

    The folder contains few files besides needed checkpoints, so a collection stays cheap.
    """

    def __init__(self, engine: Engine, artifacts: Path, interval_seconds: float) -> None:
        self._engine, self._artifacts = engine, artifacts
        self._interval_seconds = interval_seconds
        self._collect_at = 0.0
        self._unchanged = UnchangedFiles()

    def collect(self, now: float) -> None:
        """Collect if a collection is due. After an error of the database, the next collection tries again."""
        if now >= self._collect_at:
            self._collect_at = now + self._interval_seconds
            self.collect_at_once(now)

    def collect_at_once(self, now: float) -> None:
        """Collect now. Used after the end of the last search, whose last rows another host may have deleted."""
        with suppress(RecordError, OSError):
            collect_checkpoints(self._engine, self._artifacts, self._unchanged, now)
