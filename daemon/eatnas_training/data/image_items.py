"""Convert the images of items to uint8 pixels, and the labels to integers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from eatnas_training.data.arrays import Bytes
from eatnas_training.data.image_modes import convert_to_rgb
from eatnas_training.error_messages import describe_exception

MAX_CLASSES: Final = 1_000_000
"""The limit of labels. A label at or above this limit must be a mistake, since each network's classifier has a row for
each class.
"""
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


class UnusableItemError(Exception):
    """An item is not an image with a label, or does not fit the data set. The message is the reason."""


def item_channels(image: Any) -> int:
    """Return the number of channels of an image: 1 or 3. Raises `UnusableItemError`."""
    if isinstance(image, Image.Image):
        return 1 if image.mode in _GREY_MODES or image.mode.startswith("I;16") else 3
    values = _to_array(image)
    return 1 if values.ndim == 2 else int(values.shape[0])


def to_pixels(image: Any, channels: int) -> Bytes:
    """Return an image as uint8 `[channels, height, width]`. Raises `UnusableItemError`."""
    if isinstance(image, Image.Image):
        return _convert_pillow(image, channels)
    values = _to_array(image)
    values = values[None] if values.ndim == 2 else values
    if len(values) != channels or channels not in (1, 3) or values.size == 0:
        raise UnusableItemError(
            f"its shape is {list(values.shape)}; return [{channels}, height, width], channels first"
        )
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind != "f":
        raise UnusableItemError(f"its values are {values.dtype}; return uint8, or floats from 0 to 1")
    if not np.isfinite(values).all():
        raise UnusableItemError("it has infinite or NaN values")
    if values.min() < 0 or values.max() > 1:
        raise UnusableItemError(
            f"it has floats from {values.min():g} to {values.max():g}; they must lie between 0 and 1"
        )
    scaled: Bytes = np.floor(values.astype(np.float64) * 255 + 0.5).astype(np.uint8)
    return scaled


def to_label(label: Any, classes: int | None) -> int:
    """Return a label as an integer from 0 to `classes - 1`. Raises `UnusableItemError`."""
    if isinstance(label, torch.Tensor):
        label = label.detach().cpu().numpy()
    if isinstance(label, np.ndarray | np.generic) and label.size == 1:
        label = label.item()
    if label is None:
        raise UnusableItemError("it has no label")
    if isinstance(label, bool) or not isinstance(label, int):
        raise UnusableItemError(f"its label is {type(label).__name__}; return a whole number")
    largest = (MAX_CLASSES if classes is None else classes) - 1
    if not 0 <= label <= largest:
        raise UnusableItemError(f"its label is {_shorten(label)}; return a label from 0 to {largest}")
    return label


def _shorten(label: int) -> str:
    sign = "negative " if label < 0 else ""
    return str(label) if abs(label) < 2**64 else f"a {sign}number of {label.bit_length()} bits"


def _convert_pillow(image: Image.Image, channels: int) -> Bytes:
    if channels == 1 and item_channels(image) == 3:
        raise UnusableItemError(f"it is in colour (mode {image.mode}), but the data set has 1 channel")
    try:
        colours = np.asarray(convert_to_rgb(image))
    except MemoryError:
        raise
    except Exception as error:  # each format has its own reader, which can raise any exception
        raise UnusableItemError(f"it is not a readable image ({describe_exception(error)})") from error
    if 0 in colours.shape:
        raise UnusableItemError("it has no pixels")
    # The three channels of a grey image are equal, so keep the first.
    return np.ascontiguousarray(colours.transpose(2, 0, 1)[:channels])


def _to_array(image: Any) -> Any:
    values = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3):
        shape = f" of shape {list(values.shape)}" if isinstance(values, np.ndarray) else ""
        raise UnusableItemError(
            f"its image is {type(image).__name__}{shape}; return a Pillow image, or a tensor or an array "
            "[channels, height, width] or [height, width]"
        )
    return values
