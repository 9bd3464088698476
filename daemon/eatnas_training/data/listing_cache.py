"""Cache the listings of large streamed folders, so that a new worker need not list and split a million files.

A stored listing is used only if no folder has changed since the listing: no file was added, removed or renamed.
Overwritten files are detected when they are read, because each file must have the size and time in the listing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eatnas_db.atomic_files import atomic_write
from eatnas_training.data.arrays import Integers
from eatnas_training.data.folder_content import FileTimes

FORMAT: Final = 1
MIN_FILES: Final = 200_000
"""Listings of smaller data sets are not cached, because each worker needs at most a second to list the files."""
SETTLED_SECONDS: Final = 2.0
"""The minimum age, in seconds, of a folder's last change when it is listed. After a more recent change, the next change
might get the same time stamp and stay unnoticed.
"""
_SEPARATOR: Final = b"\0"


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The image files of one part: names below `top`, `labels` int64 `[N]`, and the state of each file when it was
    listed.
    """

    top: str
    names: list[str]
    labels: Integers
    times: FileTimes

    @property
    def paths(self) -> list[str]:
        """The paths of all files."""
        return [f"{self.top}/{name}" for name in self.names]

    def path(self, index: int) -> str:
        """Return the path of a file."""
        return f"{self.top}/{self.names[index]}"


@dataclass(frozen=True, slots=True)
class StreamedListing:
    """The image files of each part of a streamed folder, and additional facts as JSON values.

    `folders` are the paths of all folders that were listed.
    """

    parts: Sequence[ImageFiles]
    facts: dict[str, Any]
    folders: Sequence[str]


def listing_file(cache: Path, data: Mapping[str, Any], *, final_model: bool) -> Path:
    """Return the file for the listing of a `DataSpec` on this host."""
    request = json.dumps([FORMAT, socket.gethostname(), final_model, dict(data)], sort_keys=True)
    return cache / f"listing-{hashlib.sha256(request.encode()).hexdigest()}.npz"


def store_listing(file: Path, listing: StreamedListing, started_at: float) -> None:
    """Store a listing that began at the Unix time `started_at`, unless a folder has changed since then or shortly
    before.
    """
    arrays: dict[str, Any] = {"facts": _to_bytes([json.dumps(listing.facts)]), "folders": _to_bytes(listing.folders)}
    for number, part in enumerate(listing.parts):
        arrays[f"top{number}"], arrays[f"names{number}"] = _to_bytes([part.top]), _to_bytes(part.names)
        arrays[f"labels{number}"] = part.labels
        arrays[f"times{number}"] = np.stack((part.times.sizes, part.times.modified))
    try:
        arrays["states"] = _folder_states(listing.folders)
        if arrays["states"][:, 2].max() > (started_at - SETTLED_SECONDS) * 1e9:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as target:
            np.savez(target, **arrays)
    except OSError:  # the next worker lists the folder itself
        return


def load_listing(file: Path) -> StreamedListing | None:
    """Return a stored listing; None if it is missing or damaged, or if one of its folders has changed."""
    try:
        with file.open("rb") as content, np.load(content) as arrays:
            folders = _to_strings(arrays["folders"])
            if not np.array_equal(arrays["states"], _folder_states(folders)):
                return None
            parts = [
                ImageFiles(
                    _to_strings(arrays[f"top{number}"])[0],
                    _to_strings(arrays[f"names{number}"]),
                    arrays[f"labels{number}"],
                    FileTimes(*arrays[f"times{number}"]),
                )
                for number in range(2)
            ]
            return StreamedListing(parts, json.loads(_to_strings(arrays["facts"])[0]), folders)
    except Exception:  # a damaged archive can raise any exception; the folder is then listed
        return None


def _folder_states(folders: Sequence[str]) -> Integers:
    """Return the device, the inode and the modification time of each folder. Raises `OSError`."""
    states = [os.stat(folder) for folder in folders]  # noqa: PTH116
    return np.array([(state.st_dev, state.st_ino, state.st_mtime_ns) for state in states], np.int64)


def _to_bytes(names: Sequence[str]) -> Any:
    return np.frombuffer(_SEPARATOR.join([os.fsencode(name) for name in names]), np.uint8)


def _to_strings(content: Any) -> list[str]:
    return os.fsdecode(content.tobytes()).split("\0")
