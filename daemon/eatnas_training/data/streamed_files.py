"""List the files of image folders that are too large for memory and are decoded during training."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eatnas_db.domain.data_state import DataState
from eatnas_db.errors import DataError
from eatnas_training.data.arrays import RESIDENT_BYTES, SKIP, Integers
from eatnas_training.data.catalog import get_data_set
from eatnas_training.data.datasets import data_cache, image_side, readable_files, skipped_bytes, split
from eatnas_training.data.file_sets import is_file_set, list_test_files, list_training_files, watched_folders
from eatnas_training.data.folder_cache import content_entry, read_folder
from eatnas_training.data.folder_content import (
    UNKNOWN_SIZE,
    FileTimes,
    Steps,
    files_digest,
    read_file_times,
    run_to_end,
)
from eatnas_training.data.image_folder import ImageFolder
from eatnas_training.data.listing_cache import (
    MIN_FILES,
    ImageFiles,
    StreamedListing,
    listing_file,
    load_listing,
    store_listing,
)

DIGEST_LINES = 10_000
"""The number of files that are added to a digest at a time."""


@dataclass(frozen=True, slots=True)
class StreamedFiles:
    """The files of a streamed data set. `digest` covers their names and sizes, not their content.

    `held_out` has the validation images. For a final model, `held_out` has the test images, and `train` has the
    training and the validation images. `state` has the digest that a search computes for its training and validation
    images, and the digests of all files of the training folder. `skipped` contains the names of the unreadable files,
    which are left out.
    """

    train: ImageFiles
    held_out: ImageFiles
    side: int
    classes: int
    digest: str
    state: DataState
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A folder, the state of its files, and the indices of the files that are not skipped."""

    folder: ImageFolder
    times: FileTimes
    readable: Integers
    skipped: tuple[str, ...]
    digest: str
    may_change: bool = False
    """Whether a file is skipped because of an error that may be temporary."""

    def select(self, positions: Integers) -> Integers:
        """Convert positions among the readable files to indices of the folder's files."""
        selected: Integers = self.readable[positions]
        return selected


def list_streamed_files(data: Mapping[str, Any], *, final_model: bool = False) -> StreamedFiles | None:
    """List the files of a streamed `DataSpec`. Return None for a data set that fits into memory.

    ImageNet is always streamed. Any other data set of image files is streamed if its training images would take more
    than `RESIDENT_BYTES` in memory. With `final_model`, list the parts for a final model. Raises `DataError`.
    """
    return run_to_end(listing_steps(data, final_model=final_model))


def listing_steps(
    data: Mapping[str, Any], *, final_model: bool = False, reuse: bool = False, min_files: int = MIN_FILES
) -> Steps[StreamedFiles | None]:
    """Do the same as `list_streamed_files`, and yield the progress.

    If the spec skips unreadable files, this function reads all files.

    With `reuse`, take the listing from the cache if no folder has changed since the listing was stored. Listings of
    fewer than `min_files` files are not stored.
    """
    name = str(data["name"])
    get_data_set(name)
    if not is_file_set(name):
        return None
    cache, started_at = data_cache(data), time.time()
    file = None if cache is None else listing_file(cache, data, final_model=final_model)
    if reuse and file is not None and (stored := load_listing(file)) is not None:
        return _streamed_files(stored, data)
    folder = list_training_files(data)
    side = image_side(data)
    if name != "ImageNet" and folder.resident_bytes(side) <= RESIDENT_BYTES:
        return None
    whole = yield from _read_part(folder, data)
    labels = folder.labels[whole.readable]
    train, validation = (whole.select(positions) for positions in split(len(labels), data, labels))
    files, digest = _digest_parts(side, [("train", whole, train), ("validation", whole, validation)])
    facts = {
        "side": side,
        "classes": folder.classes,
        "data_digest": digest,
        "files_digest": whole.digest,
        "skipped": whole.skipped,
    }
    folders = watched_folders(data, folder)
    may_change = whole.may_change
    if final_model:
        test = yield from _read_part(list_test_files(data, folder), data)
        folders += watched_folders(data, test.folder)
        may_change = may_change or test.may_change
        both = np.concatenate((train, validation))
        files, digest = _digest_parts(side, [("train", whole, both), ("test", test, test.readable)])
    listing = StreamedListing(files, {**facts, "digest": digest}, folders)
    if file is not None and not may_change and sum(len(part.names) for part in files) >= min_files:
        store_listing(file, listing, started_at)
    return _streamed_files(listing, data)


def forget_listing(data: Mapping[str, Any]) -> None:
    """Remove the stored listings of a `DataSpec`, so that the next worker looks at every file."""
    cache = data_cache(data)
    if cache is None:
        return
    for final_model in (False, True):
        with contextlib.suppress(OSError):
            listing_file(cache, data, final_model=final_model).unlink()


def _streamed_files(listing: StreamedListing, data: Mapping[str, Any]) -> StreamedFiles:
    facts = listing.facts
    state = DataState(facts["data_digest"], facts["files_digest"], _known_content(data, facts["files_digest"]))
    train, held_out = listing.parts
    return StreamedFiles(
        train, held_out, facts["side"], facts["classes"], facts["digest"], state, tuple(facts["skipped"])
    )


def _digest_parts(side: int, parts: list[tuple[str, _Part, Integers]]) -> tuple[list[ImageFiles], str]:
    """Return the files of each part, and the digest of all parts."""
    sha = hashlib.sha256(f"streamed, side {side}, {parts[0][1].folder.classes} classes\n".encode())
    files = [_add_part(sha, title, part, indices) for title, part, indices in parts]
    for skipped in dict.fromkeys(part.skipped for _, part, _ in parts):
        sha.update(skipped_bytes(skipped))
    return files, sha.hexdigest()


def _read_part(folder: ImageFolder, data: Mapping[str, Any]) -> Steps[_Part]:
    times = yield from read_file_times(folder)
    digest = files_digest(folder, times)
    if data.get("on_unreadable") != SKIP:
        return _Part(folder, times, np.arange(len(folder.names)), (), digest)
    content = yield from read_folder(data_cache(data), folder, digest, None)
    readable = readable_files(folder, content, data)
    skipped = tuple(folder.names[index] for index in sorted(content.unreadable))
    return _Part(folder, times, readable, skipped, digest, content.may_change)


def _known_content(data: Mapping[str, Any], digest: str) -> str | None:
    cache = data_cache(data)
    content = None if cache is None else content_entry(cache, digest).load()
    return None if content is None else content.digest


def _add_part(sha: Any, title: str, part: _Part, indices: Integers) -> ImageFiles:
    """Add a part to the digest and return its files. Raises `DataError` if a file is missing."""
    folder, sizes = part.folder, part.times.sizes[indices]
    if (away := np.flatnonzero(sizes == UNKNOWN_SIZE)).size:
        raise DataError(f"{folder.path(int(indices[away[0]]))} cannot be read: it is missing or a broken link")
    sha.update(f"{title} {len(indices)}\n".encode())
    rows = list(zip(folder.labels[indices].tolist(), sizes.tolist(), indices.tolist(), strict=True))
    for start in range(0, len(rows), DIGEST_LINES):
        lines = [f"{label} {size} {folder.names[index]}\n" for label, size, index in rows[start : start + DIGEST_LINES]]
        sha.update(os.fsencode("".join(lines)))
    names = [folder.names[index] for _, _, index in rows]
    times = FileTimes(sizes, part.times.modified[indices])
    return ImageFiles(str(folder.top), names, folder.labels[indices], times)
