"""Augmentation of whole batches on their device."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from eatnas_training.data.batches import BatchKey, to_device
from eatnas_training.data.policies import draw_operations

SHIFT_SHARE: Final = 8
"""The largest shift of an image is its height divided by this number."""
MIRRORING: Final = ("flip", "crop_flip")
"""The values of `training.augment` that mirror half of the images."""


def augment_batch(images: Tensor, key: BatchKey) -> Tensor:
    """Shift and mirror the images `[B, C, H, W]`, and apply the operations of the policy. `key` determines all changes.

    `shift` and `crop_flip` shift each image by up to an eighth of its height, and pixels that are shifted in are 0.
    `flip` and `crop_flip` mirror half of the images.
    """
    draws = draw_shifts(key, len(images), images.shape[2])
    shifted = images if draws is None else shift_images(images, to_device(draws, images.device), key.augment)
    if key.policy == "none":
        return shifted
    # These images are views of one tensor, which stays unchanged because each operation returns a new image.
    count, side = len(images), images.shape[-1]
    changed = list(shifted.contiguous())
    for number, operations in enumerate(draw_operations(key, count, side)):
        for operation in operations:
            changed[number] = operation.apply(changed[number])
    return torch.stack(changed)


def draw_shifts(key: BatchKey, count: int, height: int) -> Tensor | None:
    """Draw the vertical shift, the horizontal shift and the mirroring (0 or 1) of each of `count` images.

    Return an int64 tensor `[3, count, 1]`, or None if `augment` is `none`. The CPU draws, so that every device gets the
    same numbers. One tensor holds all draws, so that a single copy moves them to the device.
    """
    if key.augment == "none":
        return None
    generator = torch.Generator().manual_seed(key.draw_seed("augment"))
    shifts = torch.randint(0, 2 * _reach(key.augment, height) + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    if key.augment not in MIRRORING:
        mirrored.zero_()
    return torch.stack((*shifts, mirrored.long()))


def shift_images(images: Tensor, draws: Tensor, augment: str) -> Tensor:
    """Shift and mirror the images `[B, C, H, W]` by the draws of `draw_shifts`, which must be on the images' device."""
    count, _, height, width = images.shape
    device = images.device
    down, across, mirror = draws
    rows = down + torch.arange(height, device=device)
    columns = across + torch.arange(width, device=device)
    columns = torch.where(mirror > 0, columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (_reach(augment, height),) * 4).permute(0, 2, 3, 1)
    image = torch.arange(count, device=device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reach(augment: str, height: int) -> int:
    return 0 if augment == "flip" else max(1, height // SHIFT_SHARE)
