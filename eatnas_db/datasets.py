"""The object that the data set of a plug-in returns.

A package adds a data set with an entry point in the group `eatnas_db.datasets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """One part of a data set: its items, and a description of them.

    - `items` is a map-style data set of torch. `len(items)` is the number of images, and `items[index]` is an image
      and its label, from 0 to `classes - 1`. An image is a Pillow image, or a tensor or an array with the shape
      `[channels, height, width]` or `[height, width]`, of uint8, or of floats from 0 (black) to 1
      (white). An item must depend on its index alone.
    - `classes` has the names of the classes or their number. If `classes` is None, the number is the largest label plus
      1.
    - `channels` is 1 (grey) or 3 (RGB), or None for the number of channels of the first image.
    - `resolution` is the side of all images in pixels, or None if their sizes may differ.
    - `digest` is a string that also identifies the content, for example a version. It becomes part of the data digest.
    """

    items: Any
    classes: Sequence[str] | int | None
    channels: int | None = None
    resolution: int | None = None
    digest: str | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, or None if `classes` is None."""
        if self.classes is None:
            return None
        if isinstance(self.classes, int | Integral):  # `Integral` covers NumPy's integers
            return tuple(map(str, range(int(self.classes))))
        return tuple(map(str, self.classes))
