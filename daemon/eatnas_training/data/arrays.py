"""Images as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

RESIDENT_BYTES: Final = 2**30
"""The maximum number of bytes of images in memory. Data sets of image files that would take more are streamed."""
SKIP: Final = "skip"
"""The value of `data.on_unreadable` that leaves out unreadable images."""
_RESIZE_CHUNK: Final = 1024
"""The number of images that are resized at a time, which bounds the memory for their float64 values."""


@dataclass(frozen=True, slots=True)
class Images:
    """`images` is uint8 `[N, C, H, W]`, and `labels` is int64 `[N]` with values from 0 to `classes - 1`.

    `skipped` contains the names of the unreadable files, which are left out. `identity` is the string that a plug-in's
    data set adds to the digest. `class_names` are the names of the classes in the order of their labels, or None.
    """

    images: Bytes
    labels: Integers
    classes: int
    skipped: tuple[str, ...] = ()
    identity: str | None = None
    class_names: tuple[str, ...] | None = None


def resize_images(images: Bytes, side: int | None) -> Bytes:
    """Resize `[N, C, H, W]` to `side` × `side` with a triangle filter, which averages areas when shrinking.

    With `side` None, return the images unchanged.
    """
    height, width = images.shape[2:]
    if side is None or (height, width) == (side, side):
        return images
    rows, columns = _filter_weights(height, side), _filter_weights(width, side)
    resized = np.empty((*images.shape[:2], side, side), np.uint8)
    for start in range(0, len(images), _RESIZE_CHUNK):
        chunk = images[start : start + _RESIZE_CHUNK].astype(np.float64)
        resized[start : start + _RESIZE_CHUNK] = np.rint(rows @ chunk @ columns.T)
    return resized


def _filter_weights(length: int, side: int) -> NDArray[np.float64]:
    """Return the weights of the filter, `[side, length]`. Each row sums to 1."""
    scale = length / side
    support = max(1.0, scale)
    centers = (np.arange(side) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centers[:, None] - np.arange(length)) / support)
    normalized: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normalized
