"""Detect that a file or folder was deleted or replaced while a program uses it."""

from __future__ import annotations

from pathlib import Path

from eatnas_db.errors import OwnershipError, RecordError


class FileIdentity:
    """The file or folder at a path when this object is created, identified by device and inode. Follows links.

    If nothing exists at the path at that time, later changes are not detected.
    """

    def __init__(self, path: Path, description: str) -> None:
        self._path, self._description = path, description
        self._identity = _identify(path)

    @property
    def is_unchanged(self) -> bool:
        """Whether the path still names the same file or folder."""
        return self._find_change() is None

    def require_unchanged(self) -> None:
        """Raise `OwnershipError` if the path no longer names the same file or folder."""
        change = self._find_change()
        if change is not None:
            raise OwnershipError(
                f"{self._description} {self._path} was {change} while it was in use; "
                "start the program again to use the current one"
            )

    def _find_change(self) -> str | None:
        if self._identity is None:
            return None
        try:
            found = _identify(self._path)
        except OSError:  # The disk does not answer, but the file may be unchanged.
            return None
        if found == self._identity:
            return None
        return "deleted or moved" if found is None else "replaced"


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def require_single_name(file: Path) -> None:
    """Raise `RecordError` if a database file has several hard links: each name would get its own write-ahead log."""
    try:
        names = file.stat().st_nlink
    except OSError:
        return
    if names > 1:
        raise RecordError(
            f"{file} has {names} names (hard links), and SQLite loses data if programs use several of them; find them "
            f"with `find / -xdev -samefile {file}`, keep the one next to the -wal file, and remove the others"
        )
