"""Images that are decoded while a network trains: sets too large to lie in memory.

A batch is a function of its key alone, however many threads decode and wherever a training went on. The recipe is
ImageNet's: a random crop resized, mirrored by half; for validation the middle of the resized image.
"""

from __future__ import annotations

import json
import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eatnas_db.domain.macro import Task
from eatnas_db.domain.rng import derive_seed
from eatnas_db.errors import DataError
from eatnas_training import augment, datasets, image_folder
from eatnas_training.augment import BatchKey, Data
from eatnas_training.dataset_files import Bytes

THREADS: Final = "EATNAS_DECODE_THREADS"
"""The environment's variable for how many threads decode in each worker; changes no result."""
AHEAD: Final = 2
"""So many batches are decoded in advance: all the memory that streaming takes."""
MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
MIDDLE: Final = 224 / 256
"""The share of the shorter side that validation sees."""
SMALLEST_CROP: Final = 0.08
WIDEST_CROP: Final = 4 / 3
CROP_TRIES: Final = 10

Box = tuple[float, float, float, float]
Key = BatchKey | range
Decoding = tuple[Future[Bytes], Callable[[], Bytes]]


def load(data: Mapping[str, Any], device: str, *, final: bool = False) -> Data:
    """A `DataSpec`'s images for `device`, streamed where they are too many to lie on it whole; see `augment.load`.

    The last ones asked for stay ready. Raises `DataError`.
    """
    return _loaded(json.dumps(dict(data), sort_keys=True), device, _threads(), final)


@lru_cache(maxsize=1)
def _loaded(data: str, device: str, threads: int, final: bool) -> Data:
    found = datasets.streamed(json.loads(data), final=final)
    if found is None:
        return augment.load(json.loads(data), device, final=final)
    decoders = Decoders(threads)
    train, held_out = (Streamed(part, found.side, device, decoders) for part in (found.train, found.held_out))
    return Data(train, held_out, Task(found.side, 3, found.classes), found.digest)


def _threads() -> int:
    text = os.environ.get(THREADS) or str(max(1, min(8, (os.cpu_count() or 1) // 2)))
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{THREADS} is {text!r}; give it a number of threads")
    return int(text)


class Decoders:
    """A pool of threads. Not the standard library's, which decodes all that is queued before an interpreter may exit:
    these are daemons, and go with it or with this object.
    """

    def __init__(self, threads: int) -> None:
        self._queue: SimpleQueue[Decoding | None] = SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=_decode_queued, args=(self._queue,), daemon=True).start()
        weakref.finalize(self, _dismiss, self._queue, threads)

    def begin(self, decode: Callable[[], Bytes]) -> Future[Bytes]:
        """Queue an image; cancelling takes it out again."""
        future: Future[Bytes] = Future()
        self._queue.put((future, decode))
        return future


def _decode_queued(queue: SimpleQueue[Decoding | None]) -> None:
    while (decoding := queue.get()) is not None:
        future, decode = decoding
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(decode())
        except BaseException as error:
            future.set_exception(error)


def _dismiss(queue: SimpleQueue[Decoding | None], threads: int) -> None:
    for _ in range(threads):
        queue.put(None)


class Streamed:
    """A part whose images are read, cropped and resized to `side` by a pool of threads, a few batches in advance."""

    def __init__(self, files: datasets.Files, side: int, device: str, decoders: Decoders) -> None:
        self.labels = torch.from_numpy(files.labels)
        self._paths, self._side, self._decoders = files.paths, side, decoders
        self._device = torch.device(device)
        self._mean, self._scale = (
            (torch.tensor(values, dtype=torch.float32) * 255).pow(power).reshape(1, 3, 1, 1).to(device)
            for values, power in ((MEAN, 1), (DEVIATION, -1))
        )
        self._begun: dict[Key, list[Future[Bytes]]] = {}

    @property
    def begun(self) -> int:
        """How many images are decoded, or about to be, and not yet asked for."""
        return sum(map(len, self._begun.values()))

    def batch(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """See `augment.Part`. `crop_flip` crops and mirrors, `shift` crops alone, `none` takes the middle."""
        batches = max(1, len(self._paths) // key.size)
        later = range(key.batch + 1, min(key.batch + 1 + AHEAD, batches))
        return self._taken([key, *(replace(key, batch=batch) for batch in later)])

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `augment.Part`."""
        count, size = len(self._paths), max(1, stop - start)
        later = range(stop, min(stop + AHEAD * size, count), size)
        return self._taken([range(start, stop), *(range(at, min(at + size, count)) for at in later)])

    def _taken(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        """The batch of the first key; those of the others are begun, and whatever else was begun is dropped."""
        for key in self._begun.keys() - set(keys):
            for future in self._begun.pop(key):
                future.cancel()
        for key in keys:
            if key not in self._begun:
                self._begun[key] = self._begin(key)
        decoded = np.stack([future.result() for future in self._begun.pop(keys[0])])
        images = augment.moved(torch.from_numpy(decoded), self._device).permute(0, 3, 1, 2)
        labels = augment.moved(self.labels[self._indices(keys[0])], self._device)
        return augment.normalised(images, self._mean, self._scale), labels

    def _begin(self, key: Key) -> list[Future[Bytes]]:
        indices = self._indices(key).tolist()
        draws = [None] * len(indices) if isinstance(key, range) else _draws(key, len(indices))
        return [
            self._decoders.begin(partial(_decoded, self._paths[index], self._side, draw))
            for index, draw in zip(indices, draws, strict=True)
        ]

    def _indices(self, key: Key) -> Tensor:
        return torch.arange(key.start, key.stop) if isinstance(key, range) else key.indices(len(self._paths))


def _draws(key: BatchKey, count: int) -> Sequence[list[float] | None]:
    """For each image: an area and a ratio for every try, a place, and whether to mirror, all from 0 to 1."""
    if key.augment == "none":
        return [None] * count
    generator = torch.Generator().manual_seed(derive_seed(key.seed, "crop", key.epoch, key.batch))
    draws = torch.rand((count, 2 * CROP_TRIES + 3), generator=generator, dtype=torch.float64)
    if key.augment == "shift":
        draws[:, -1] = 1
    rows: list[list[float] | None] = draws.tolist()
    return rows


def _decoded(path: str, side: int, draw: list[float] | None) -> Bytes:
    """uint8 `[side, side, 3]`: the middle of an image, or the crop that was drawn."""
    picture = image_folder.picture(path)
    box = _middle(*picture.size) if draw is None else _crop(*picture.size, draw)
    pixels: Bytes = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box))
    return pixels[:, ::-1] if draw is not None and draw[-1] < 0.5 else pixels


def _middle(width: int, height: int) -> Box:
    half = min(width, height) * MIDDLE / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def _crop(width: int, height: int, draw: list[float]) -> Box:
    """A part of 8% to all of the area, 3:4 to 4:3 wide; the middle square if no try fits."""
    inside_width = inside_height = min(width, height)
    across, down = 0.5, 0.5
    for area, ratio in zip(draw[0 : 2 * CROP_TRIES : 2], draw[1 : 2 * CROP_TRIES : 2], strict=True):
        pixels = width * height * (SMALLEST_CROP + area * (1 - SMALLEST_CROP))
        stretch = math.exp((2 * ratio - 1) * math.log(WIDEST_CROP))
        tried = max(1, round(math.sqrt(pixels * stretch))), max(1, round(math.sqrt(pixels / stretch)))
        if tried[0] <= width and tried[1] <= height:
            (inside_width, inside_height), (across, down) = tried, draw[-3:-1]
            break
    left, top = int(across * (width - inside_width + 1)), int(down * (height - inside_height + 1))
    return left, top, left + inside_width, top + inside_height
