"""List folders of images with one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from eatnas_db.errors import DataError
from eatnas_training.data.arrays import Integers
from eatnas_training.data.folder_walk import (
    CYCLE,
    FolderWalk,
    Skipped,
    identify_ancestors,
    skip_reason,
)
from eatnas_training.error_messages import unreadable

TRAIN: Final = "train"
TEST: Final = "val"
_MISSPELLED_PARTS: Final = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "test", "testing"), TEST),
}
"""A mapping from common wrong names of the parts' folders, in lower case, to the right names."""
EMPTY_CLASS: Final = "holds no files, so it is not a class"
OPTION: Final = " (--root of `data prepare`)"
OUTSIDE: Final = "not in the folder of a class"


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The image files below `top`: their sorted names relative to `top`, and `labels` int64 `[N]`.

    Names are strings instead of `Path` objects, because each worker lists the more than one million names of ImageNet.
    """

    top: Path
    names: list[str]
    labels: Integers
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    folders: tuple[str, ...] = ()
    """All folders that were read, relative to `top`."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def path(self, index: int) -> str:
        """Return the path of a file."""
        return f"{self.top}/{self.names[index]}"

    def resident_bytes(self, side: int) -> int:
        """Return the size of all images in memory, as RGB of `side` × `side` pixels."""
        return len(self.names) * 3 * side * side

    def count_images(self) -> dict[str, int]:
        """Return the number of images of each class."""
        counts = np.bincount(self.labels, minlength=self.classes)
        return dict(zip(self.class_names, counts.tolist(), strict=True))


def list_training_folder(root: Path, name: str) -> ImageFolder:
    """List the training part of a folder data set. Each folder with files is a class. Raises `DataError` if there are
    fewer than two classes.
    """
    has_parts = name == "ImageNet" or (root / TRAIN).is_dir() or (root / TEST).is_dir()
    top = root / TRAIN if has_parts else root
    skipped: list[Skipped] = []
    if not (root / TRAIN).is_dir():
        _refuse_misspelled_parts(root, name)
    elif has_parts:
        skipped += [
            Skipped(f"../{folder}", f"not used; the parts are {TRAIN} and {TEST}")
            for folder in _list_folders(root)[0]
            if folder not in (TRAIN, TEST)
        ]
    folders, skipped_here = _list_folders(top)
    if not folders:
        raise DataError(f"{name}: {top} has no class folders; put images into {top}/CLASS/, or set data.root{OPTION}")
    files, skipped_below, read = _list_classes(top, folders)
    skipped += [*skipped_here, *skipped_below]
    class_names = tuple(folder for folder, names in files.items() if names)
    if not class_names:
        raise DataError(f"{name}: the class folders in {top} hold no files; put images into {top}/CLASS/")
    if len(class_names) == 1:
        _refuse_one_class(top, name, class_names[0], files)
    return _with_labels(top, files, class_names, skipped, read)


def list_test_folder(root: Path, name: str, train: ImageFolder) -> ImageFolder:
    """List the test part of a folder data set.

    Raises `DataError` if the test part is missing or if its classes differ from those of the training part.
    """
    top = root / TEST
    folders, skipped_here = _list_folders(top)
    if not folders:
        _refuse_misspelled_parts(root, name)
        raise DataError(f"{name}: {top} has no class folders; put images into {top}/CLASS/, or set data.root{OPTION}")
    files, skipped_below, read = _list_classes(top, folders)
    missing = [folder for folder in train.class_names if folder not in folders]
    unknown = [folder for folder, names in files.items() if names and folder not in train.class_names]
    if differing := sorted([*missing, *unknown]):
        raise DataError(
            f"{name}: {train.top} and {top} must have the same classes; only one of them has {differing[0]!r}"
        )
    return _with_labels(top, files, train.class_names, [*skipped_here, *skipped_below], read)


def _with_labels(
    top: Path,
    files: dict[str, list[str]],
    class_names: tuple[str, ...],
    skipped: Sequence[Skipped],
    read: Sequence[str],
) -> ImageFolder:
    names = [file for folder in class_names for file in files.get(folder, ())]
    labels = np.repeat(np.arange(len(class_names)), [len(files.get(folder, ())) for folder in class_names])
    return ImageFolder(top, names, labels.astype(np.int64), class_names, tuple(skipped), (".", *read))


def _list_folders(top: Path) -> tuple[list[str], list[Skipped]]:
    """Return the sorted names of the folders in `top` (empty if `top` does not exist), and the skipped entries."""
    folders: list[str] = []
    skipped: list[Skipped] = []
    try:
        with os.scandir(top) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if (reason := skip_reason(entry.name)) is not None:
                    skipped.append(Skipped(entry.name, reason))
                elif entry.is_dir():
                    folders.append(entry.name)
                else:
                    skipped.append(Skipped(entry.name, OUTSIDE))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise unreadable(error) from error
    return folders, skipped


def _list_classes(top: Path, folders: Sequence[str]) -> tuple[dict[str, list[str]], list[Skipped], list[str]]:
    """Return the sorted files of each folder, the skipped entries, and all folders that were read.

    Links in cycles, hidden files and empty folders are skipped.
    """
    ancestors = identify_ancestors(top)
    files: dict[str, list[str]] = {}
    skipped: list[Skipped] = []
    read: list[str] = []
    for folder in folders:
        walk = FolderWalk(str(top), set(ancestors))
        walk.list_files(folder)
        files[folder] = walk.files
        skipped += walk.skipped
        read += walk.folders
        if not walk.files and Skipped(folder, CYCLE) not in walk.skipped:
            skipped.append(Skipped(folder, EMPTY_CLASS))
    return files, skipped, read


def _refuse_misspelled_parts(root: Path, name: str) -> None:
    """Raise `DataError` if a folder looks like a part under a wrong name: it contains folders but no files."""
    for folder in _list_folders(root)[0]:
        part = _MISSPELLED_PARTS.get(folder.lower())
        if part is None or part == folder:
            continue
        folders, others = _list_folders(root / folder)
        if folders and not any(skipped.reason == OUTSIDE for skipped in others):
            raise DataError(
                f"{name}: {root} has a folder {folder!r}, which would be a class; the training images must be in "
                f"{TRAIN!r} and the test images in {TEST!r}; rename the folder to {part!r}"
            )


def _refuse_one_class(top: Path, name: str, only: str, files: dict[str, list[str]]) -> None:
    inside = _list_folders(top / only)[0]
    others = [folder for folder in files if folder != only]
    advice = f"put the images of each class into a folder {top}/CLASS/"
    if len(inside) > 1:
        advice = f"if {inside[0]!r} and {inside[1]!r} are classes, set data.root{OPTION} to {top / only}"
    elif others:
        advice = f"the folder {others[0]!r} holds no files; {advice}"
    raise DataError(f"{name}: {top} has only one class with files, {only!r}, and a search needs two; {advice}")
