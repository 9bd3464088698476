"""Prove before every write that the supervisor still owns what it works on."""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_db.file_identity import FileIdentity
from eatnas_db.settings import Settings


class Ownership:
    """The home, the lock file and the SQLite file as they were when the supervisor started."""

    def __init__(self, settings: Settings) -> None:
        files = [FileIdentity(settings.home, "the home"), FileIdentity(settings.lock_file, "the lock file")]
        if settings.database_file is not None:
            files.append(FileIdentity(settings.database_file, "the database"))
        self._files: Sequence[FileIdentity] = files

    def require_files(self) -> None:
        """Raise `ConflictError` if one of the files was deleted or replaced: another daemon may use what is there."""
        for file in self._files:
            file.require_unchanged()
