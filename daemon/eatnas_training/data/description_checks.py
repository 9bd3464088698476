"""Check the description that a plug-in's data set gives of its items, before an item is read."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Final

from eatnas_db.datasets import ImageDataset
from eatnas_db.errors import DataError
from eatnas_training.data.image_items import MAX_CLASSES

MAX_RESOLUTION: Final = 65_536
MAX_SHOWN: Final = 60


def check_description(name: str, part: ImageDataset) -> None:
    """Raise `DataError`, which names the field, the value and the allowed values, if the description is invalid."""
    if not _is_classes(part.classes):
        expected = f"the names of the classes, or their number from 1 to {MAX_CLASSES:,}, or None"
        raise _describe(name, "classes", part.classes, expected)
    if part.resolution is not None and not _is_number(part.resolution, MAX_RESOLUTION):
        raise _describe(name, "resolution", part.resolution, f"a whole number from 1 to {MAX_RESOLUTION:,}, or None")
    if part.digest is not None and not isinstance(part.digest, str):
        raise _describe(name, "digest", part.digest, "a string, or None")


def _is_classes(value: Any) -> bool:
    if value is None or _is_number(value, MAX_CLASSES):
        return True
    is_listing = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_listing and 1 <= len(value) <= MAX_CLASSES


def _is_number(value: Any, most: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= most


def _describe(name: str, field: str, value: Any, expected: str) -> DataError:
    try:
        shown = repr(value)[:MAX_SHOWN]
    except Exception:  # code of another package may raise any exception
        shown = "?"
    return DataError(f"{name} has the {field} {shown} ({type(value).__name__}); its ImageDataset must have {expected}")
