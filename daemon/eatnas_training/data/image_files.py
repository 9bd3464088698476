"""Decode one image file with Pillow."""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Final

from eatnas_db.errors import DataError
from eatnas_training.data.image_modes import UnsupportedModeError, convert_to_rgb
from eatnas_training.error_messages import first_line, unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

FileState = tuple[int, int]
"""The size of a file in bytes and its modification time in nanoseconds."""
REMEDY: Final = "; replace or delete it"


def open_image(path: str, state: FileState | None = None) -> Image:
    """Decode an image file to RGB.

    Raises `DataError`, which names the path, if the file is unreadable or if its state is not `state`.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            if state is not None and state != (status.st_size, status.st_mtime_ns):
                raise DataError(
                    f"{path} has changed since this worker listed the images: it had {state[0]} bytes and modification "
                    f"time {state[1]} ns, and has {status.st_size} bytes and {status.st_mtime_ns} ns now; "
                    "restore the file"
                )
            return _decode(path, file)
    except OSError as error:
        raise unreadable(error) from error


def read_image(path: str, content: bytes) -> Image:
    """Decode the content of an image file to RGB. Raises `DataError`, which names the path."""
    return _decode(path, io.BytesIO(content))


def _decode(path: str, file: IO[bytes]) -> Image:
    try:
        from PIL import Image, UnidentifiedImageError  # other data sets do not need Pillow
    except ImportError as error:
        raise DataError(f"image folders need Pillow: {first_line(error)}; pip install pillow") from error
    try:
        with Image.open(file) as image:
            return convert_to_rgb(image)
    except MemoryError:
        raise
    except UnsupportedModeError as error:
        raise DataError(f"{path} cannot be used: {error}") from error
    except UnidentifiedImageError as error:  # Pillow's message names a buffer in memory instead of the file
        raise DataError(f"{path} is not a readable image (no known format){REMEDY}") from error
    except Exception as error:  # each format has its own reader, which can raise any exception
        raise DataError(f"{path} is not a readable image ({first_line(error)}){REMEDY}") from error
