"""Change whole normalized batches by random erasing, mixup and cutmix. All draws are keyed by the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eatnas_training.data.batches import BatchKey, to_device

ERASED_AREA: Final = (0.02, 1 / 3)
ERASED_RATIO: Final = (0.3, 3.3)
"""The ranges of the erased share of an image's area, and of the rectangle's height / width, as in torchvision."""


@dataclass(frozen=True, slots=True)
class Mix:
    """The share of each image in its mixed image, and the labels of the images that are mixed in, int64 `[B]`."""

    share: float
    labels: Tensor


def erase(images: Tensor, key: BatchKey, probability: float) -> Tensor:
    """Erase a random rectangle of each image in `[B, C, H, W]` with this probability. Erased pixels are 0, the mean of
    all images.
    """
    count, _, height, width = images.shape
    boxes = draw_boxes(key, count, (height, width), probability)
    return erase_boxes(images, to_device(boxes, images.device))


def draw_boxes(key: BatchKey, count: int, sides: tuple[int, int], probability: float) -> Tensor:
    """Draw a rectangle, which may be empty, in each image: top, bottom, left and right, int64 `[4, count]`.

    The CPU draws, so that every device gets the same numbers. One tensor holds all draws, so that a single copy moves
    them to the device.
    """
    height, width = sides
    generator = torch.Generator().manual_seed(key.draw_seed("erasing"))
    erased, area, ratio, down, across = torch.rand((5, count), generator=generator, dtype=torch.float64)
    pixels = height * width * (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0]))
    low, high = (math.log(value) for value in ERASED_RATIO)
    ratios = (ratio * (high - low) + low).exp()
    rows = (pixels * ratios).sqrt().round().clamp(1, height)
    columns = (pixels / ratios).sqrt().round().clamp(1, width)
    rows = torch.where(erased < probability, rows, 0)
    top, left = (down * (height - rows + 1)).floor(), (across * (width - columns + 1)).floor()
    return torch.stack((top, top + rows, left, left + columns)).long()


def erase_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """Set the rectangles of `draw_boxes` to 0."""
    height, width = images.shape[2:]
    box = boxes[:, :, None]
    row, column = (torch.arange(length, device=images.device) for length in (height, width))
    inside = ((row >= box[0]) & (row < box[1]))[:, :, None] & ((column >= box[2]) & (column < box[3]))[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)


def mix(images: Tensor, labels: Tensor, key: BatchKey, *, mixup: float, cutmix: float) -> tuple[Tensor, Mix]:
    """Mix each image of a batch with the image before it, by the method whose alpha is above 0.

    If both alphas are above 0, the method is drawn for each batch. The share of the original image is drawn from
    Beta(alpha, alpha), once for the whole batch.
    """
    draws = np.random.default_rng(key.draw_seed("mixing"))
    cuts = cutmix > 0 and (mixup == 0 or draws.random() < 0.5)
    alpha = cutmix if cuts else mixup
    share = float(draws.beta(alpha, alpha))
    others, other_labels = images.roll(1, 0), labels.roll(1, 0)
    if not cuts:
        return images.lerp(others, 1 - share), Mix(share, other_labels)
    height, width = images.shape[2:]
    side = math.sqrt(1 - share)
    center_row, center_column = int(draws.integers(height)), int(draws.integers(width))
    top, bottom = _clip(center_row, height, side)
    left, right = _clip(center_column, width, side)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, Mix(1 - (bottom - top) * (right - left) / (height * width), other_labels)


def _clip(center: int, length: int, share: float) -> tuple[int, int]:
    """Return a range around `center` whose length is `share` times that of the image, clipped at the edges of the
    image.
    """
    half = round(length * share / 2)
    return max(0, center - half), min(length, center + half)
