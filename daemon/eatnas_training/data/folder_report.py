"""Describe an image folder to the user: its classes, skipped files and unreadable images."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eatnas_training.data.arrays import RESIDENT_BYTES
from eatnas_training.data.catalog import FOLDER_SETS, get_data_set
from eatnas_training.data.datasets import data_cache
from eatnas_training.data.file_sets import data_root, has_test_files, list_test_files, list_training_files
from eatnas_training.data.folder_cache import read_folder
from eatnas_training.data.folder_content import NAMED, Reporter, files_digest, read_file_times, run_to_end
from eatnas_training.data.folder_walk import HIDDEN, SYSTEM_FILE
from eatnas_training.data.image_folder import ImageFolder


@dataclass(frozen=True, slots=True)
class FolderReport:
    """The content of an image folder.

    `images_by_class` has a row for each class with the numbers of its images in the training part and in the test part.
    `skipped` are the skipped files and folders with reasons. `unreadable` has a row for each unreadable image.
    """

    images_by_class: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    unreadable: list[dict[str, str]]


def read_image_folder(data: Mapping[str, Any], report: Reporter, *, test: bool = True) -> FolderReport:
    """Read every file of a folder data set, even if it is in the cache.

    With `test`, also read the test part if there is one. Raises `DataError`.
    """
    train = list_training_files(data)
    parts = [train]
    if test and has_test_files(data):
        parts.append(list_test_files(data, train))
    skipped, unreadable = [], []
    for part in parts:
        prefix = "" if data["name"] not in FOLDER_SETS or part.top == data_root(data) else f"{part.top.name}/"
        skipped += [asdict(replace(item, path=posixpath.normpath(prefix + item.path))) for item in part.skipped]
        unreadable += _read(part, data, prefix, report)
    counts = [part.count_images() for part in parts]
    classes = [
        {"class": label, "images": counts[0][label], "test_images": counts[1][label] if len(counts) > 1 else None}
        for label in train.class_names
    ]
    return FolderReport(classes, skipped, unreadable)


def list_notes(data: Mapping[str, Any], unreadable: Sequence[str]) -> list[str]:
    """Return a sentence for each kind of file in a folder data set that a search skips without an error.

    `unreadable` holds the names of the unreadable images that the spec skips. Raises `DataError`.
    """
    train = list_training_files(data)
    surprises = [item for item in train.skipped if item.reason not in (HIDDEN, SYSTEM_FILE)]
    notes = [f"{posixpath.normpath(f'{train.top}/{item.path}')} is skipped: {item.reason}" for item in surprises]
    if len(notes) > NAMED:
        notes[NAMED:] = [
            f"more files are skipped: {len(notes) - NAMED}; `eatnas-db data prepare {data['name']}` lists all of them"
        ]
    if unreadable:
        notes.append(f"unreadable images are skipped: {len(unreadable)} (the first is {unreadable[0]})")
    return notes


def _read(part: ImageFolder, data: Mapping[str, Any], prefix: str, report: Reporter) -> list[dict[str, str]]:
    side = data.get("resolution") or get_data_set(str(data["name"])).side
    if data["name"] == "ImageNet" or not side or part.resident_bytes(side) > RESIDENT_BYTES:
        side = None  # streamed images are resized only during training
    digest = files_digest(part, run_to_end(read_file_times(part), report))
    content = run_to_end(read_folder(data_cache(data), part, digest, side, again=True), report)
    return [
        {"path": prefix + part.names[index], "reason": content.unreadable[index].removeprefix(part.path(index)).strip()}
        for index in sorted(content.unreadable)
    ]
