"""Convert an image to the input of a network, bit for bit as in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from eatnas_training.data.arrays import Bytes, resize_images
from eatnas_training.data.decoding import center_crop
from eatnas_training.data.image_modes import convert_to_rgb
from eatnas_training.export.description import Preprocessing


class ImageTransform(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """A torchvision transform that converts a PIL image or a uint8 `[C, H, W]` of any size to float32 `[C, side,
    side]`.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        # Use the same float32 mean and scale of each channel as the training, to get the same bits. Training on a
        # streamed data set, whose `rounding` is `pillow`, computes the scale in float32, which may change its last bit.
        computed = torch.float32 if preprocessing.rounding == "pillow" else torch.float64
        self._mean, self._scale = (
            (torch.tensor(values, dtype=computed) * 255).pow(power).to(torch.float32).reshape(-1, 1, 1)
            for values, power in ((preprocessing.mean, 1), (preprocessing.deviation, -1))
        )

    def transform(self, inpt: Any, params: dict[str, Any]) -> Tensor:
        """Return the input of the network for one image."""
        image = _to_image(inpt) if isinstance(inpt, Tensor) else inpt
        pixels = torch.from_numpy(crop_and_resize(image, self.preprocessing))
        return (pixels.to(torch.float32) - self._mean) * self._scale

    def extra_repr(self) -> str:
        """Return the settings, which `repr` of the module shows."""
        return str(self.preprocessing)


def crop_and_resize(image: Image.Image, preprocessing: Preprocessing) -> Bytes:
    """Convert, crop and resize an image: uint8 `[C, side, side]`."""
    image = convert_to_rgb(image).convert(preprocessing.mode)
    side = preprocessing.resolution
    if preprocessing.rounding == "pillow":
        box = center_crop(*image.size, preprocessing.crop)
        return _channels_first(np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box)))
    square = min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    pixels = _channels_first(np.asarray(image.crop((left, top, left + square, top + square))))
    resized: Bytes = resize_images(pixels[None], side)[0]
    return resized


def _channels_first(pixels: Bytes) -> Bytes:
    # Copy the array, because torch needs a writable array.
    copied: Bytes = np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C")
    return copied


def _to_image(pixels: Tensor) -> Image.Image:
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) not in (1, 3):
        raise TypeError(f"expected an image or uint8 [1 or 3, H, W], got {pixels.dtype} {list(pixels.shape)}")
    array = pixels.cpu().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
