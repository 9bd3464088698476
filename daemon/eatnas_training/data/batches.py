"""Batches of images on a device, for images in memory and for streamed images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.macro import Task
from eatnas_db.domain.rng import derive_seed


@dataclass(frozen=True, slots=True)
class BatchKey:
    """The key of a training batch, which alone determines the images of the batch and their augmentation."""

    augment: str
    seed: int
    size: int
    epoch: int
    batch: int
    policy: str = "none"
    rank: int = 0
    ranks: int = 1
    """The number of processes that divide the batch. Each part of the batch has its own key."""

    def indices(self, count: int) -> Tensor:
        """Return the indices (of `count` images) that are in the batch, or in this rank's part of it: int64 `[B]` on
        the CPU.
        """
        order = _cached_epoch_order(count, self.seed, self.epoch)
        batch = order[self.batch * self.size : (self.batch + 1) * self.size]
        return batch if self.ranks == 1 else batch.tensor_split(self.ranks)[self.rank]

    def draw_seed(self, purpose: str) -> int:
        """Return the seed of the draws for a purpose."""
        rank = [] if self.ranks == 1 else [self.rank]
        return derive_seed(self.seed, purpose, self.epoch, self.batch, *rank)


class DataPart(Protocol):
    """Images for training or evaluation. Batches are normalized float32, channels-last."""

    @property
    def labels(self) -> Tensor:
        """int64 `[N]`."""

    def batch(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """Return an augmented batch: images `[B, C, H, W]` and labels `[B]`. Raises `DataError`."""

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the images with the indices from `start` to `stop - 1`, without augmentation, and their labels.

        Raises `DataError`.
        """


@dataclass(frozen=True, slots=True)
class LoadedData:
    """The training part and the held-out part of a data set, normalized in the same way. `digest` covers both parts,
    and `state` holds the digests of the search's images.

    `held_out` contains the validation images. For a final model, which trains on the validation images too, `held_out`
    contains the test images.
    """

    train: DataPart
    held_out: DataPart
    task: Task
    digest: str
    state: DataState


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of `count` images in an epoch, keyed by (seed, epoch): int64 `[count]` on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


_cached_epoch_order = lru_cache(maxsize=2)(epoch_order)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device without waiting for the device's pending work.

    A copy from pageable memory would wait, so the tensor is pinned. torch keeps the pinned memory until the copy is
    complete.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def normalize(images: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Convert uint8 `[B, C, H, W]` to float32, channels-last. `mean` and `scale` (1 / deviation) are `[1, C, 1, 1]`."""
    floats = (images.to(torch.float32) - mean) * scale
    return floats.contiguous(memory_format=torch.channels_last)
