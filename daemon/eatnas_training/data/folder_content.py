"""Read all files of an image folder: their pixels, the digest of their bytes, and the unreadable files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from eatnas_db.errors import DataError
from eatnas_training.data.arrays import Bytes, Integers, resize_images
from eatnas_training.data.image_files import REMEDY, read_image
from eatnas_training.data.image_folder import ImageFolder

CHUNK: Final = 32
"""The number of files, for each thread, that are submitted to the pool at a time."""
REPORT_SECONDS: Final = 0.5
"""The time between two reports of progress."""
LISTED_BETWEEN: Final = 1000
"""The number of files that are listed between two checks of the clock."""
UNKNOWN_SIZE: Final = -1
NAMED: Final = 3
"""The maximum number of unreadable files that an error names."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """`done` of `total` images are read or listed. `waiting` is true while another process is reading the images."""

    done: int
    total: int
    waiting: bool = False
    action: str = "read"

    def describe(self) -> str:
        """Return the progress as a line of text."""
        if self.waiting:
            return f"another process reads the {self.total:,} images"
        return f"{self.action} {self.done:,} of {self.total:,} images"


Steps = Generator[LoadProgress, None, T]
"""A calculation that yields its progress, at least once a second unless a file takes longer, and returns a result."""


@dataclass(frozen=True, slots=True)
class FileTimes:
    """The sizes in bytes and the modification times in nanoseconds of the files of a folder, both int64 `[N]`.

    A missing file has the size `UNKNOWN_SIZE`.
    """

    sizes: Integers
    modified: Integers


@dataclass(frozen=True, slots=True)
class FolderContent:
    """The content of an image folder.

    `images` is uint8 `[N, 3, side, side]`, with zeros for unreadable files. It is None if no side was requested.
    `digest` is the SHA-256 of the names, classes and bytes of all files. `unreadable` maps indices to reasons.
    `may_change` is true if a file could not be read because of an `OSError`: such an error may disappear although the
    file stays the same.
    """

    images: Bytes | None
    digest: str
    unreadable: dict[int, str]
    may_change: bool = False


Reporter = Callable[[LoadProgress], None]


def ignore_progress(_progress: LoadProgress) -> None:
    """Do nothing. The default reporter, for calls that show no progress."""


def run_to_end(steps: Steps[T], report: Reporter = ignore_progress) -> T:
    """Run a calculation to its end and return its result."""
    while True:
        try:
            report(next(steps))
        except StopIteration as stop:
            result: T = stop.value
            return result


def read_file_times(folder: ImageFolder) -> Steps[FileTimes]:
    """Return the sizes and modification times of all files. A missing file raises no error."""
    times = np.empty((2, len(folder.names)), np.int64)
    reported = time.monotonic()
    for index, name in enumerate(folder.names):
        if index % LISTED_BETWEEN == 0 and time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            yield LoadProgress(index, len(folder.names), action="listed")
        try:
            status = os.stat(f"{folder.top}/{name}")  # noqa: PTH116 - a `Path` for each takes as long as the call
        except OSError:
            times[:, index] = UNKNOWN_SIZE, 0
        else:
            times[:, index] = status.st_size, status.st_mtime_ns
    return FileTimes(*times)


def files_digest(folder: ImageFolder, times: FileTimes) -> str:
    """Return the digest of names, sizes, classes and modification times. The digest changes when files are added,
    removed or modified.
    """
    sha = hashlib.sha256("\n".join(["files", *folder.class_names, ""]).encode(errors="surrogateescape"))
    rows = zip(folder.labels.tolist(), times.sizes.tolist(), times.modified.tolist(), folder.names, strict=True)
    while lines := [f"{label} {size} {modified} {name}\n" for label, size, modified, name in islice(rows, 10_000)]:
        sha.update("".join(lines).encode(errors="surrogateescape"))
    return sha.hexdigest()


def read_content(folder: ImageFolder, side: int | None, target: Bytes | None = None) -> Steps[FolderContent]:
    """Read and decode all files on all cores. Write the center squares, resized to `side`, into `target`."""
    if side is not None and target is None:
        target = np.zeros((len(folder.names), 3, side, side), np.uint8)
    sha = hashlib.sha256()
    unreadable: dict[int, str] = {}
    may_change = False
    read = partial(_read_file, folder, side, target)
    threads = count_available_cores()
    size, count = CHUNK * threads, len(folder.names)
    yield LoadProgress(0, count)
    reported = time.monotonic()
    # Limit BLAS to one thread, because each thread of the pool computes matrix products to resize images.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        # Submit one chunk at a time, so that an interrupted process exits without decoding a long queue.
        for start in range(0, count, size):
            indices = range(start, min(start + size, count))
            for index, (digest, reason, may_pass) in zip(indices, pool.map(read, indices), strict=True):
                sha.update(f"{folder.labels[index]} {digest} ".encode() + os.fsencode(folder.names[index]) + b"\n")
                if reason is not None:
                    unreadable[index] = reason
                may_change = may_change or may_pass
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                yield LoadProgress(indices.stop, count)
    yield LoadProgress(count, count)
    return FolderContent(target, sha.hexdigest(), unreadable, may_change)


def count_available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_file(folder: ImageFolder, side: int | None, target: Bytes | None, index: int) -> tuple[str, str | None, bool]:
    """Decode a file into its place in `target`.

    Return the digest of the file's bytes, the reason if the file is unreadable, and whether this error may disappear
    although the file stays the same.
    """
    path = folder.path(index)
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read()
    except OSError as error:
        # A broken link counts as a permanent error. When the link's target comes back, the size of the file is no
        # longer `UNKNOWN_SIZE`, so the key of the cache changes.
        is_broken_link = isinstance(error, FileNotFoundError) and os.path.islink(path)  # noqa: PTH114
        return "", f"{path} cannot be read: {error.strerror}", not is_broken_link
    digest = hashlib.sha256(content).hexdigest()
    try:
        pixels: Bytes = np.asarray(read_image(path, content))
    except DataError as error:
        return digest, str(error), False
    if side is not None and target is not None:
        target[index] = resize_images(_center_square(pixels)[None], side)[0]
    return digest, None, False


def _center_square(pixels: Bytes) -> Bytes:
    """Return the center square of `[height, width, channels]` as `[channels, side, side]`."""
    height, width = pixels.shape[:2]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    return pixels[top : top + square, left : left + square].transpose(2, 0, 1)


def unreadable_error(folder: ImageFolder, unreadable: dict[int, str]) -> DataError:
    """Return the error with the names of the first unreadable files and the number of all other unreadable files."""
    reasons = [unreadable[index] for index in sorted(unreadable)]
    if len(reasons) == 1:
        return DataError(reasons[0])
    named = " | ".join(reason.removesuffix(REMEDY) for reason in reasons[:NAMED])
    more = f" | and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    return DataError(
        f"{len(reasons)} of {len(folder.names)} images in {folder.top} cannot be read: {named}{more}; replace or "
        "delete them, or set data.on_unreadable to skip"
    )
