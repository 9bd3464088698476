"""Find the files that nobody has written for a while, by a monotonic clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

GRACE_SECONDS: Final = 3600.0
"""A file without a row that changed within this time may still be written, or its row may still be inserted."""


class FoundFile(NamedTuple):
    """A file whose path is text: a home may have a hundred thousand logs, and a `Path` costs more."""

    path: str
    name: str
    bytes: int
    changed_at: float


class _Seen(NamedTuple):
    file: FoundFile
    since: float


class UnchangedFiles:
    """Remembers since when each file has had its size and its time of modification.

    The time of modification alone proves nothing: a clock that was set forward makes a file look old while a worker
    writes it, and a copied file keeps the time of its original. So a process has to see a file unchanged for the whole
    time.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._seen: dict[str, _Seen] = {}

    def observe(self, files: Iterable[FoundFile], now: float) -> frozenset[str]:
        """Return the paths of the files that have not changed for the grace period; forget all others.

        `now` comes from a monotonic clock.
        """
        earlier, self._seen = self._seen, {}
        for file in files:
            seen = earlier.get(file.path)
            self._seen[file.path] = seen if seen is not None and seen.file == file else _Seen(file, now)
        return frozenset(path for path, seen in self._seen.items() if now - seen.since > self._grace_seconds)
