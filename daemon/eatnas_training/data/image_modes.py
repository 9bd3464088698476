"""Convert Pillow's image modes to 8-bit RGB.

Pillow's own `convert` clips values above 255, so that 16-bit images turn white. This module scales such images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

CONVERTED: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
"""Modes of at most 8 bits, which Pillow's `convert` handles. Transparency is dropped."""
SIXTEEN_BITS: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_BITS_PER_SAMPLE: Final = 258
_PHOTOMETRIC: Final = 262
"""Tags of TIFF files. With the photometric interpretation 0, the value 0 is white."""


class UnsupportedModeError(ValueError):
    """The file does not define which values of its pixels are black and white."""


def convert_to_rgb(image: Image) -> Image:
    """Return an opened image in mode RGB. Raises `UnsupportedModeError`, and Pillow's errors for a damaged file."""
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _grey_to_rgb(image, _scale_integers(image))
    if image.mode == "F":
        return _grey_to_rgb(image, _scale_floats(image))
    if image.mode == "La":  # Pillow converts the mode La only to LA
        return image.convert("LA").convert("RGB")
    if image.mode not in CONVERTED:
        raise UnsupportedModeError(
            f"its pixels are of Pillow's mode {image.mode}, which defines no value for white; save it with 8 or 16 bits"
        )
    image.load()
    image.info.pop("transparency", None)  # `convert` would warn, because RGB cannot store it
    return image.convert("RGB")


def _scale_integers(image: Image) -> NDArray[np.uint8]:
    """Return the integers of an image scaled to 8 bits, where 255 is white."""
    if image.format == "FITS":  # Pillow ignores the header BZERO, which shifts all values
        raise UnsupportedModeError("its pixels are 16-bit integers of FITS, which may be signed; save it as PNG")
    values = np.asarray(image).astype(np.int64)
    white = 2 ** _bits_per_sample(image) - 1
    if values.size and not 0 <= values.min() <= values.max() <= white:
        raise UnsupportedModeError(
            f"its pixels have values from {values.min()} to {values.max()}, but its format defines {white} as "
            "white; save it as PNG"
        )
    scaled = (2 * 255 * values + white) // (2 * white)
    grey: NDArray[np.uint8] = (255 - scaled if _is_white_zero(image) else scaled).astype(np.uint8)
    return grey


def _scale_floats(image: Image) -> NDArray[np.uint8]:
    """Return the floats of an image scaled to 8 bits, where 255 is white."""
    values = np.asarray(image, np.float64)
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # also true for NaN
        raise UnsupportedModeError(
            f"its pixels are floats from {values.min():g} to {values.max():g}; floats must lie between 0 (black) and "
            "1 (white); save it with 8 or 16 bits"
        )
    scaled = np.floor(values * 255 + 0.5).astype(np.uint8)
    return 255 - scaled if _is_white_zero(image) else scaled


def _grey_to_rgb(image: Image, grey: NDArray[np.uint8]) -> Image:
    from PIL import Image as images  # noqa: N813 - other data sets do without Pillow

    return images.fromarray(grey).convert("RGB") if grey.size else images.new("RGB", image.size)


def _bits_per_sample(image: Image) -> int:
    """Return the number of bits of each value.

    Pillow keeps the 12-bit values of a TIFF file, and scales those of other formats to 16 bits.
    """
    bits = _tiff_tag(image, _BITS_PER_SAMPLE, 16)
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _is_white_zero(image: Image) -> bool:
    # If 0 is white, the caller must invert the image, because Pillow inverts only images of at most 8 bits.
    return bool(_tiff_tag(image, _PHOTOMETRIC, 1) == 0)


def _tiff_tag(image: Image, tag: int, default: int) -> Any:
    return getattr(image, "tag_v2", {}).get(tag, default)
