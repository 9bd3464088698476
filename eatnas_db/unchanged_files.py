"""Find the files that have not changed for a while, by a monotonic clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

GRACE_SECONDS: Final = 3600.0
"""The seconds after a change during which a file without a row may still be written, or its row may still be
inserted.
"""


class FoundFile(NamedTuple):
    """A file with its path as text, since `Path` objects for a hundred thousand logs would take more memory."""

    path: str
    name: str
    bytes: int
    changed_at: float


class _Seen(NamedTuple):
    file: FoundFile
    since: float


class UnchangedFiles:
    """Remembers for each file since when its size and its modification time have been the same.

    The modification time alone proves nothing. After a clock was set forward, a file looks old while a worker writes
    it, and a copied file keeps the modification time of its original. Therefore, a process must see a file unchanged
    for the whole grace period.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._seen: dict[str, _Seen] = {}

    def observe(self, files: Iterable[FoundFile], now: float) -> frozenset[str]:
        """Return the paths of the `files` that have not changed for the grace period, and forget all other files.

        `now` comes from a monotonic clock.
        """
        earlier, self._seen = self._seen, {}
        for file in files:
            seen = earlier.get(file.path)
            self._seen[file.path] = seen if seen is not None and seen.file == file else _Seen(file, now)
        return frozenset(path for path, seen in self._seen.items() if now - seen.since > self._grace_seconds)
