"""List the files below the folder of a class, and the skipped files and folders."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eatnas_training.error_messages import unreadable

HIDDEN: Final = "hidden"
SYSTEM_FILE: Final = "written by an operating system, not an image"
CYCLE: Final = "a link to a folder that is already listed"
NOT_A_FILE: Final = "not a file"
_SYSTEM_NAMES: Final = frozenset(
    {
        "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
        "thumbs.db", "ehthumbs.db", "desktop.ini",
    }
)  # fmt: skip

Identity = tuple[int, int]
"""The device and the inode of a folder, which are equal for all links to it."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that a listing skips, with the reason: `count` files in the folder `path`, or `path` itself."""

    path: str
    reason: str
    count: int = 1


def skip_reason(name: str) -> str | None:
    """Return the reason to skip a file or folder with this name, or None to keep it."""
    if name.startswith("."):
        return HIDDEN
    return SYSTEM_FILE if name.lower() in _SYSTEM_NAMES else None


def identify_folder(path: str | Path) -> Identity:
    """Return the identity of a folder. Raises `OSError`."""
    status = os.stat(path)  # noqa: PTH116
    return status.st_dev, status.st_ino


def identify_ancestors(top: Path) -> frozenset[Identity]:
    """Return the identities of a folder and of all folders that contain it. A link to such a folder is a cycle."""
    real = Path(os.path.realpath(top))
    try:
        return frozenset(map(identify_folder, (real, *real.parents)))
    except OSError as error:
        raise unreadable(error) from error


@dataclass(slots=True)
class FolderWalk:
    """Lists all files below one folder of `top`, and follows links to folders.

    Folders in `visited` are not listed again. Real folders are listed before links. A link to another folder of the
    same class therefore adds no files.
    """

    top: str
    visited: set[Identity]
    files: list[str] = field(default_factory=list)
    """The names of the files, relative to `top`."""
    folders: list[str] = field(default_factory=list)
    """All folders that were read, relative to `top`."""
    skipped: list[Skipped] = field(default_factory=list)
    _links: list[str] = field(default_factory=list)

    def list_files(self, folder: str) -> None:
        """List a folder, given relative to `top`. Raises `DataError`."""
        self._links.append(folder)
        while self._links:
            level, self._links = sorted(self._links), []
            for link in level:
                if self._is_new(link):
                    self._list_real_folders(link)
                else:
                    self.skipped.append(Skipped(link, CYCLE))
        self.files.sort()

    def _is_new(self, folder: str) -> bool:
        try:
            identity = identify_folder(f"{self.top}/{folder}")
        except OSError as error:
            raise unreadable(error) from error
        is_new = identity not in self.visited
        self.visited.add(identity)
        return is_new

    def _list_real_folders(self, start: str) -> None:
        """List a folder and the folders below it. Keep links to folders for later."""
        pending = [start]
        while pending:
            folder = pending.pop()
            self.folders.append(folder)
            skipped: Counter[str] = Counter()
            try:
                with os.scandir(f"{self.top}/{folder}") as entries:
                    for entry in entries:  # keep this loop fast: ImageNet has 1.3 million entries
                        name = entry.name
                        path = f"{folder}/{name}"
                        if (reason := skip_reason(name)) is not None:
                            skipped[reason] += 1
                        elif entry.is_dir(follow_symlinks=False):
                            if self._is_new(path):
                                pending.append(path)
                            else:
                                self.skipped.append(Skipped(path, CYCLE))
                        elif entry.is_file(follow_symlinks=False):
                            self.files.append(path)
                        else:
                            self._add_link(entry, path)
            except OSError as error:
                raise unreadable(error) from error
            self.skipped += [Skipped(folder, reason, count) for reason, count in sorted(skipped.items())]

    def _add_link(self, entry: os.DirEntry[str], path: str) -> None:
        try:
            mode = entry.stat().st_mode
        except OSError:  # treat a broken link as an unreadable file
            self.files.append(path)
            return
        if stat.S_ISDIR(mode):
            self._links.append(path)
        elif stat.S_ISREG(mode):
            self.files.append(path)
        else:
            self.skipped.append(Skipped(path, NOT_A_FILE))
