"""Folders of images with one folder for each class, and the decoding of one image (Pillow)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eatnas_db.errors import DataError
from eatnas_training.data.arrays import Integers
from eatnas_training.data.image_modes import UnsupportedModeError, convert_to_rgb
from eatnas_training.error_messages import first_line, unreadable

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The image files below `top`: their sorted names relative to it, and `labels` int64 `[N]`.

    Names are strings rather than `Path` objects, because ImageNet has more than a million and each worker lists them.
    """

    top: Path
    names: list[str]
    labels: Integers
    classes: int

    def path(self, index: int) -> str:
        """Return the path of a file."""
        return f"{self.top}/{self.names[index]}"

    def resident_bytes(self, side: int) -> int:
        """Return the size of all images in memory, as RGB of `side` × `side` pixels."""
        return len(self.names) * 3 * side * side


def list_image_folder(root: Path, name: str, *, train: bool) -> ImageFolder:
    """List the training or the test part of a folder data set. Raises `DataError` if it has no files."""
    part = root / ("train" if train else "val")
    # If there is a test part, the images are not directly in `root`, where `val` would count as a class.
    has_parts = not train or name == "ImageNet" or part.is_dir() or (root / "val").is_dir()
    top = part if has_parts else root
    classes = list_classes(top)
    if not classes:
        raise DataError(f"{name}: {top} has no class folders; put images into {top}/CLASS/, or set data.root")
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        files = _list_files(top, folder)
        names += files
        labels += [label] * len(files)
    if not names:
        raise DataError(f"{name}: the class folders in {top} hold no files; put images into {top}/CLASS/")
    return ImageFolder(top, names, np.array(labels, np.int64), len(classes))


def list_classes(top: Path) -> list[str]:
    """Return the sorted names of the class folders, none if `top` does not exist. Raises `DataError`."""
    try:
        with os.scandir(top) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(error) from error


def _list_files(top: Path, folder: str) -> list[str]:
    """Return the sorted names of all files below a folder, relative to `top`, without hidden ones."""

    def fail(error: OSError) -> None:
        raise unreadable(error) from error

    names: list[str] = []
    for current, folders, files in os.walk(f"{top}{os.sep}{folder}", onerror=fail):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        relative = current[len(str(top)) + 1 :]
        names += [f"{relative}/{file}" for file in files if not _is_hidden(file)]
    return sorted(names)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def file_size(path: str) -> int:
    """Return the size of a file in bytes. Raises `DataError`."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError as error:
        raise unreadable(error) from error


def open_image(path: str) -> Image:
    """Decode an image file to RGB. Raises `DataError` with its path."""
    try:
        from PIL import Image  # other data sets do without Pillow
    except ImportError as error:
        raise DataError(f"image folders need Pillow: {first_line(error)}; pip install pillow") from error
    try:
        with Image.open(path) as image:
            return convert_to_rgb(image)
    except MemoryError:
        raise
    except UnsupportedModeError as error:
        raise DataError(f"{path} cannot be used: {error}") from error
    except Exception as error:  # each format has its own reader, which can raise any exception
        raise DataError(f"{path} is not a readable image ({first_line(error)}); replace or delete it") from error
