"""A cache of decoded image folders, shared by all processes of a home.

An entry is two files: `KEY.npy` holds the decoded images, and `KEY.json`, written last, marks them as complete. The key
is a digest of the folder's names, sizes, classes and modification times, so that a changed folder is read again. A lock
file keeps two processes from decoding the same folder. All files of the cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eatnas_db.atomic_files import atomic_write, sync_and_replace
from eatnas_db.file_lock import try_lock
from eatnas_training.data.arrays import Bytes
from eatnas_training.data.folder_content import FolderContent, LoadProgress, Steps, read_content
from eatnas_training.data.image_folder import ImageFolder

FORMAT: Final = 1
"""The version of the decoding, which is part of the key. Increase this number when the decoding changes."""
POLL_SECONDS: Final = 0.25
"""The time between two attempts to acquire a lock that another process holds."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The cache entry of a folder, whose files are named after `key`. `shape` is the shape of the images, or None if
    the entry has no images.
    """

    cache: Path
    key: str
    shape: tuple[int, ...] | None

    @property
    def images_file(self) -> Path:
        """The decoded images."""
        return self.cache / f"{self.key}.npy"

    @property
    def content_file(self) -> Path:
        """The file with the digest and the unreadable files."""
        return self.cache / f"{self.key}.json"

    def load(self) -> FolderContent | None:
        """Return the content, with its images mapped into memory; None if the entry is missing or damaged."""
        try:
            stored = json.loads(self.content_file.read_bytes())
            unreadable = {int(index): str(reason) for index, reason in stored["unreadable"].items()}
            images = None
            if self.shape is not None:
                images = np.load(self.images_file, mmap_mode="r")
                if images.shape != self.shape or images.dtype != np.uint8:
                    return None
            return FolderContent(images, str(stored["digest"]), unreadable)
        except (OSError, ValueError, KeyError, AttributeError):
            return None

    def store(self, folder: ImageFolder, side: int | None) -> Steps[FolderContent]:
        """Read the folder into the entry. The caller must hold the lock. Raises `OSError`.

        Content that may change although the files stay the same is returned but not stored.
        """
        for leftover in self.cache.glob(f"{self.key}.*.partial"):  # left by killed processes
            leftover.unlink(missing_ok=True)
        target, temporary = None, self.cache / f"{self.key}.{os.getpid()}.partial"
        try:
            if self.shape is not None:
                target = _create_array(temporary, self.shape)
            content = yield from read_content(folder, side, target)
            if content.may_change:
                return content
            if target is not None:
                target.flush()
                sync_and_replace(temporary, self.images_file)
        finally:
            temporary.unlink(missing_ok=True)
        stored = {
            "folder": str(folder.top),
            "files": len(folder.names),
            "side": side,
            "digest": content.digest,
            "unreadable": content.unreadable,
        }
        with atomic_write(self.content_file) as file:
            file.write(json.dumps(stored).encode())
        if side is not None:
            self._remove_older_states(folder, side)
        return content

    def _remove_older_states(self, folder: ImageFolder, side: int) -> None:
        """Remove the images of earlier states of a folder, but keep those of the newest earlier state, because a
        missing file may come back.
        """
        states: list[tuple[float, Path]] = []
        for file in self.cache.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                stored = json.loads(file.read_bytes())
                if file != self.content_file and (stored["folder"], stored["side"]) == (str(folder.top), side):
                    states.append((file.stat().st_mtime, file))
        for _, file in sorted(states, reverse=True)[1:]:
            with contextlib.suppress(OSError):
                file.unlink()
                file.with_suffix(".npy").unlink()


def cache_entry(cache: Path, folder: ImageFolder, files_digest: str, side: int | None) -> CacheEntry:
    """Return the entry for a folder with center squares of `side` pixels, or without images if `side` is None."""
    if side is None:
        return content_entry(cache, files_digest)
    pillow = importlib.metadata.version("pillow")
    key = hashlib.sha256(f"{FORMAT} {files_digest} {side} {pillow}".encode()).hexdigest()
    return CacheEntry(cache, key, (len(folder.names), 3, side, side))


def content_entry(cache: Path, files_digest: str) -> CacheEntry:
    """Return the entry without images for a folder: only the unreadable files and the digest of all bytes."""
    return CacheEntry(cache, hashlib.sha256(f"{FORMAT} {files_digest}".encode()).hexdigest(), None)


def read_folder(
    cache: Path | None, folder: ImageFolder, files_digest: str, side: int | None, *, again: bool = False
) -> Steps[FolderContent]:
    """Return the content of a folder, from the cache if possible, else from its files.

    With `again`, read the files even if the content is in the cache. A cache that cannot be written is not an error.
    """
    if cache is None:
        return (yield from read_content(folder, side))
    entry = cache_entry(cache, folder, files_digest, side)
    if not again and (content := entry.load()) is not None:
        return content
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f"{entry.key}.lock").open("a")
    except OSError:
        return (yield from read_content(folder, side))
    with lock:
        waited = False
        while not try_lock(lock):
            waited = True
            yield LoadProgress(0, len(folder.names), waiting=True)
            time.sleep(POLL_SECONDS)
        if (waited or not again) and (content := entry.load()) is not None:
            return content
        try:
            content = yield from entry.store(folder, side)
        except OSError:
            return (yield from read_content(folder, side))
    return content if content.may_change else entry.load() or content


def _create_array(path: Path, shape: tuple[int, ...]) -> Any:
    """Reserve a file for an array, and map it into memory. Raises `OSError` if the disk is too full.

    Without the reservation, the kernel would kill the process if it wrote to the array on a full disk.
    """
    array: Bytes = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
    return array
