"""Folders of images of one's own, one folder for each class: what lies there, and a file decoded (Pillow)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eatnas_db.errors import DataError
from eatnas_training.dataset_files import Integers, first_line, unreadable

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Folder:
    """Image files below `top`: their names relative to it, in order; `labels` int64 `[N]`.

    Names, not paths of pathlib's: ImageNet has more than a million, and each worker looks at them all.
    """

    top: Path
    names: list[str]
    labels: Integers
    classes: int

    def path(self, index: int) -> str:
        """Where that file lies."""
        return f"{self.top}/{self.names[index]}"

    def resident_bytes(self, side: int) -> int:
        """What all of them would take in memory at that side, in RGB."""
        return len(self.names) * 3 * side * side


def folder_of(root: Path, name: str, *, train: bool) -> Folder:
    """The files of a part of a folder set. Raises `DataError` where there are none."""
    part = root / ("train" if train else "val")
    # Where there is a test part beside, the root itself would make a class of it.
    in_parts = not train or name == "ImageNet" or part.is_dir() or (root / "val").is_dir()
    top = part if in_parts else root
    classes = classes_in(top)
    if not classes:
        raise DataError(f"{name}: {top} has no folders of classes; put images into {top}/CLASS/, or set data.root")
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        inside = _files(top, folder)
        names += inside
        labels += [label] * len(inside)
    if not names:
        raise DataError(f"{name}: {top} has folders of classes, but no file in them")
    return Folder(top, names, np.array(labels, np.int64), len(classes))


def classes_in(top: Path) -> list[str]:
    """The folders of classes below `top`, sorted; none where it is not there. Raises `DataError`."""
    try:
        with os.scandir(top) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not _hidden(entry.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(error) from error


def _files(top: Path, folder: str) -> list[str]:
    """All files below that folder, relative to `top`, sorted; hidden ones are nobody's images."""

    def stop(error: OSError) -> None:
        raise unreadable(error) from error

    found: list[str] = []
    for above, folders, files in os.walk(f"{top}{os.sep}{folder}", onerror=stop):
        folders[:] = [name for name in folders if not _hidden(name)]
        below = above[len(str(top)) + 1 :]
        found += [f"{below}/{file}" for file in files if not _hidden(file)]
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith(".")


def size_of(path: str) -> int:
    """A file's bytes. Raises `DataError`."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError as error:
        raise unreadable(error) from error


def picture(path: str) -> Image:
    """An image file, decoded, in RGB. Raises `DataError` naming it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"image folders need Pillow: {first_line(error)}") from error
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # each format has a reader of its own, and each raises what it likes
        raise DataError(f"{path} is no image that can be read ({first_line(error)}); replace or delete it") from error
