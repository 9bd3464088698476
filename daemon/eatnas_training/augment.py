"""Batches of images, and the sets that lie on the device whole: gathered, augmented at once, normalised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from eatnas_db.domain.macro import Task
from eatnas_db.domain.rng import derive_seed
from eatnas_training import datasets
from eatnas_training.dataset_files import Bytes

SHIFT_SHARE: Final = 8


@dataclass(frozen=True, slots=True)
class BatchKey:
    """One batch of a training: all that decides which images are in it and how they are augmented."""

    augment: str
    seed: int
    size: int
    epoch: int
    batch: int

    def indices(self, count: int) -> Tensor:
        """Which of `count` images: int64 `[B]`, on the CPU."""
        order = _remembered_order(count, self.seed, self.epoch)
        return order[self.batch * self.size : (self.batch + 1) * self.size]


class Part(Protocol):
    """Images to train on or to be measured on, wherever they lie. Batches are normalised float32, channels-last."""

    @property
    def labels(self) -> Tensor:
        """int64 `[N]`."""

    def batch(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """A batch to train on: images `[B, C, H, W]` and labels `[B]`. Raises `DataError`."""

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The images from `start` to before `stop`, not augmented, and their labels. Raises `DataError`."""


@dataclass(frozen=True, slots=True)
class Data:
    """Both parts, normalised alike; `digest` names the data.

    `held_out` is the validation images. A final model trains on these too, and what is held out is the test part.
    """

    train: Part
    held_out: Part
    task: Task
    digest: str


@dataclass(frozen=True, slots=True)
class Resident:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]` on a device; `mean`, `scale` `[1, C, 1, 1]`."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    scale: Tensor

    def batch(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """See `Part`."""
        chosen = moved(key.indices(len(self.labels)), self.labels.device)
        images = augmented(self.images[chosen], key.augment, key.seed, key.epoch, key.batch)
        return self.normalised(images), self.labels[chosen]

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `Part`."""
        return self.normalised(self.images[start:stop]), self.labels[start:stop]

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 `[B, C, H, W]` to float32 of the train images' mean 0 and deviation 1, channels-last."""
        return normalised(images, self.mean, self.scale)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor's on a device, without waiting for what the device has yet to do.

    From memory that may be swapped out a copy would wait; torch keeps the pinned memory until the copy is made.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def normalised(images: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """uint8 `[B, C, H, W]` to float32, channels-last, by `mean` and 1 / deviation `[1, C, 1, 1]`."""
    floats = (images.to(torch.float32) - mean) * scale
    return floats.contiguous(memory_format=torch.channels_last)


def load(data: Mapping[str, Any], device: str, *, final: bool = False) -> Data:
    """A `DataSpec`'s images on `device`; the last ones asked for stay loaded. `final`: a final model's, with the test
    part, which is not read otherwise. Raises `DataError`.
    """
    return _loaded(json.dumps(dict(data), sort_keys=True), device, final)


@lru_cache(maxsize=1)
def _loaded(data: str, device: str, final: bool) -> Data:
    loaded: datasets.TrainingData | datasets.FinalData
    if final:
        loaded = datasets.load_final(json.loads(data))
        measured = loaded.test
    else:
        loaded = datasets.load_training(json.loads(data))
        measured = loaded.validation
    mean, scale = (torch.from_numpy(a).to(device) for a in _statistics(loaded.train.images))
    train, held_out = (
        Resident(
            torch.from_numpy(np.array(part.images)).to(device),
            torch.from_numpy(np.array(part.labels)).to(device),
            mean,
            scale,
        )
        for part in (loaded.train, measured)
    )
    _, channels, side, _ = train.images.shape
    return Data(train, held_out, Task(side, channels, loaded.train.classes), loaded.digest)


def _statistics(
    images: Bytes,
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]:
    """Each channel's mean and 1 / deviation, from exact counts of the 256 values: `[1, C, 1, 1]`."""
    values = np.arange(256, dtype=np.float64)
    means, scales = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        means.append(mean)
        scales.append(1 / max(1.0, float(np.sqrt(variance))))
    shape = (1, -1, 1, 1)
    return np.array(means, np.float32).reshape(shape), np.array(scales, np.float32).reshape(shape)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch: int64 `[count]` on the CPU, keyed by (seed, epoch)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


_remembered_order = lru_cache(maxsize=2)(epoch_order)


def augmented(images: Tensor, kind: str, seed: int, epoch: int, batch: int) -> Tensor:
    """A batch `[B, C, H, W]` shifted by up to an eighth of its side, and for `crop_flip` mirrored by half.

    Keyed by (seed, epoch, batch); what is shifted in is 0. `none` gives the batch as it is.
    """
    if kind == "none":
        return images
    count, _, height, width = images.shape
    device = images.device
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment", epoch, batch))
    reach = max(1, height // SHIFT_SHARE)
    shifts = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    # Drawn on the processor, so that every device has the same draws; sent in one piece.
    down, across, mirror = moved(torch.stack((*shifts, mirrored.long())), device)
    rows = down + torch.arange(height, device=device)
    columns = across + torch.arange(width, device=device)
    if kind == "crop_flip":
        columns = torch.where(mirror > 0, columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (reach,) * 4).permute(0, 2, 3, 1)
    which = torch.arange(count, device=device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
