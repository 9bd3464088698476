"""Load data sets onto the device as one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.macro import Task
from eatnas_training.data import datasets
from eatnas_training.data.arrays import Bytes
from eatnas_training.data.augment import augment_batch
from eatnas_training.data.batches import BatchKey, LoadedData, normalize, to_device
from eatnas_training.data.catalog import describe_plugin
from eatnas_training.data.folder_content import Steps


@dataclass(frozen=True, slots=True)
class ResidentPart:
    """A part of a data set on a device: images uint8 `[N, C, H, W]`, labels int64 `[N]`, and `mean` and `scale` `[1, C,
    1, 1]`.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    scale: Tensor

    def batch(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """See `DataPart`."""
        indices = to_device(key.indices(len(self.labels)), self.labels.device)
        return self.normalize(augment_batch(self.images[indices], key)), self.labels[indices]

    def normalize(self, images: Tensor) -> Tensor:
        """Convert images of this part to float32, channels-last."""
        return normalize(images, self.mean, self.scale)

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `DataPart`."""
        return self.normalize(self.images[start:stop]), self.labels[start:stop]


def load_resident(data: Mapping[str, Any], device: str, *, final_model: bool = False) -> Steps[LoadedData]:
    """Load a `DataSpec`'s images onto a device. Test images are read only for a final model. Raises `DataError`.

    Images are normalized such that the training images have mean 0 and deviation 1 in each channel.
    """
    if final_model:
        final = yield from datasets.final_steps(data)
        train, held_out, digest = final.train, final.test, final.digest
        state = DataState(final.search_digest, plugin=describe_plugin(str(data["name"])))
    else:
        loaded = yield from datasets.training_steps(data)
        train, held_out, digest = loaded.train, loaded.validation, loaded.digest
        state = DataState(digest, plugin=describe_plugin(str(data["name"])))
    mean, scale = (torch.from_numpy(array).to(device) for array in channel_statistics(train.images))
    train_part, held_out_part = (
        ResidentPart(
            images=torch.from_numpy(np.array(part.images)).to(device),
            labels=torch.from_numpy(np.array(part.labels)).to(device),
            mean=mean,
            scale=scale,
        )
        for part in (train, held_out)
    )
    _, channels, side, _ = train.images.shape
    return LoadedData(train_part, held_out_part, Task(side, channels, train.classes), digest, state)


def channel_statistics(
    images: Bytes,
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the mean and 1 / deviation of each channel, `[1, C, 1, 1]`, computed from exact counts of the 256 pixel
    values.
    """
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
