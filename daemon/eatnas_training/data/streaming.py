"""Stream data sets that are too large for memory: decode images while a network trains.

A batch depends only on its key, and not on the number of threads or on the point where a training resumed. Training
takes random crops, half of them mirrored, and evaluation takes center crops, as is usual for ImageNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eatnas_db.domain.macro import Task
from eatnas_training.data.arrays import Bytes
from eatnas_training.data.batches import BatchKey, LoadedData, normalize, to_device
from eatnas_training.data.decoding import DecoderPool, decode_image, draw_crops
from eatnas_training.data.image_files import FileState
from eatnas_training.data.listing_cache import ImageFiles
from eatnas_training.data.policies import Operation, draw_operations
from eatnas_training.data.streamed_files import StreamedFiles

BATCHES_AHEAD: Final = 2
"""The number of batches that are decoded in advance, which bounds the memory of streaming."""
MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
"""The mean and the deviation of ImageNet's channels, for values from 0 to 1."""

Key = BatchKey | range
"""The key of a training batch, or a range of images for evaluation."""


class StreamedPart:
    """A part of a data set.

    A pool of threads decodes, crops and resizes its images to `side`, a few batches in advance.
    """

    def __init__(self, files: ImageFiles, side: int, device: str, decoders: DecoderPool) -> None:
        self.labels = torch.from_numpy(files.labels)
        self._files, self._side, self._decoders = files, side, decoders
        self._device = torch.device(device)
        self._mean, self._scale = (
            (torch.tensor(values, dtype=torch.float32) * 255).pow(power).reshape(1, 3, 1, 1).to(device)
            for values, power in ((MEAN, 1), (DEVIATION, -1))
        )
        self._pending: dict[Key, list[Future[Bytes]]] = {}

    @property
    def pending_images(self) -> int:
        """The number of images that are queued or decoded but not yet returned."""
        return sum(map(len, self._pending.values()))

    def batch(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """See `DataPart`.

        With `crop_flip` or `shift`, crop at random, otherwise at the center. With `crop_flip` or `flip`, also mirror.
        """
        batches = max(1, len(self._files.names) // key.size)
        following = range(key.batch + 1, min(key.batch + 1 + BATCHES_AHEAD, batches))
        return self._fetch([key, *(replace(key, batch=batch) for batch in following)])

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `DataPart`."""
        count, size = len(self._files.names), max(1, stop - start)
        following = range(stop, min(stop + BATCHES_AHEAD * size, count), size)
        return self._fetch([range(start, stop), *(range(first, min(first + size, count)) for first in following)])

    def _fetch(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        """Return the batch of the first key, start the batches of the other keys, and cancel other pending batches."""
        for key in self._pending.keys() - set(keys):
            for future in self._pending.pop(key):
                future.cancel()
        for key in keys:
            if key not in self._pending:
                self._pending[key] = self._submit(key)
        decoded = np.stack([future.result() for future in self._pending.pop(keys[0])])
        images = to_device(torch.from_numpy(decoded), self._device).permute(0, 3, 1, 2)
        labels = to_device(self.labels[self._indices(keys[0])], self._device)
        return normalize(images, self._mean, self._scale), labels

    def _submit(self, key: Key) -> list[Future[Bytes]]:
        indices = self._indices(key).tolist()
        count = len(indices)
        draws: Sequence[list[float] | None] = [None] * count
        operations: Sequence[Sequence[Operation]] = [()] * count
        if not isinstance(key, range):
            draws, operations = draw_crops(key, count), draw_operations(key, count, self._side)
        return [
            self._decoders.submit(
                partial(decode_image, self._files.path(index), self._side, crop, self._state(index), operations=changes)
            )
            for index, crop, changes in zip(indices, draws, operations, strict=True)
        ]

    def _state(self, index: int) -> FileState:
        return int(self._files.times.sizes[index]), int(self._files.times.modified[index])

    def _indices(self, key: Key) -> Tensor:
        return torch.arange(key.start, key.stop) if isinstance(key, range) else key.indices(len(self._files.names))


def open_streamed(files: StreamedFiles, device: str, threads: int) -> LoadedData:
    """Return a data set whose images are decoded by a pool of `threads` threads."""
    decoders = DecoderPool(threads)
    train, held_out = (StreamedPart(part, files.side, device, decoders) for part in (files.train, files.held_out))
    return LoadedData(train, held_out, Task(files.side, 3, files.classes), files.digest, files.state)
