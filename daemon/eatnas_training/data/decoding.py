"""Decode image files in threads, with the crops that are usual for ImageNet."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final

import numpy as np
import torch
from PIL import Image

from eatnas_training.data.arrays import Bytes
from eatnas_training.data.batches import BatchKey
from eatnas_training.data.image_files import FileState, open_image
from eatnas_training.data.policies import Operation

CENTER_SHARE: Final = 224 / 256
"""The side of the center crop as a share of the image's shorter side."""
MIN_CROP_AREA: Final = 0.08
MAX_ASPECT_RATIO: Final = 4 / 3
CROP_TRIES: Final = 10

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a crop in pixels."""
_Task = tuple[Future[Bytes], Callable[[], Bytes]]


class DecoderPool:
    """A pool of daemon threads that end with this object.

    A `ThreadPoolExecutor` would delay the exit of the interpreter until all queued images are decoded.
    """

    def __init__(self, threads: int) -> None:
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=_run_tasks, args=(self._queue,), daemon=True).start()
        weakref.finalize(self, _stop_threads, self._queue, threads)

    def submit(self, decode: Callable[[], Bytes]) -> Future[Bytes]:
        """Queue the decoding of an image. Cancelling the future removes the image from the queue."""
        future: Future[Bytes] = Future()
        self._queue.put((future, decode))
        return future


def _run_tasks(queue: SimpleQueue[_Task | None]) -> None:
    while (task := queue.get()) is not None:
        future, decode = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(decode())
        except BaseException as error:
            future.set_exception(error)


def _stop_threads(queue: SimpleQueue[_Task | None], threads: int) -> None:
    for _ in range(threads):
        queue.put(None)


def draw_crops(key: BatchKey, count: int) -> Sequence[list[float] | None]:
    """Return for each of `count` images a list of random numbers, or None if the image gets the center crop.

    The numbers of an image are an area and an aspect ratio for each try, two numbers for the position and one for
    mirroring, all from 0 to 1. With `flip`, there is only the number for mirroring.
    """
    if key.augment == "none":
        return [None] * count
    generator = torch.Generator().manual_seed(key.draw_seed("crop"))
    numbers = 1 if key.augment == "flip" else 2 * CROP_TRIES + 3
    draws = torch.rand((count, numbers), generator=generator, dtype=torch.float64)
    if key.augment == "shift":
        draws[:, -1] = 1
    rows: list[list[float] | None] = draws.tolist()
    return rows


def decode_image(
    path: str,
    side: int,
    draws: list[float] | None,
    state: FileState | None = None,
    operations: Sequence[Operation] = (),
) -> Bytes:
    """Decode an image file to uint8 `[side, side, 3]`: the center crop or, with several `draws`, a random crop.

    The operations change the crop before it is mirrored. Raises `DataError` if the file is unreadable or if its state
    is not `state`.
    """
    image = open_image(path, state)
    box = center_crop(*image.size) if draws is None or len(draws) == 1 else _random_crop(*image.size, draws)
    crop = image.resize((side, side), Image.Resampling.BILINEAR, box)
    for operation in operations:
        crop = operation.apply(crop)
    pixels: Bytes = np.asarray(crop)
    return pixels[:, ::-1] if draws is not None and draws[-1] < 0.5 else pixels


def center_crop(width: int, height: int, share: float = CENTER_SHARE) -> Box:
    """Return the center square of an image. Its side is `share` of the image's shorter side."""
    half = min(width, height) * share / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def _random_crop(width: int, height: int, draws: list[float]) -> Box:
    """Return a crop of 8% to 100% of the area with an aspect ratio from 3:4 to 4:3.

    If no drawn crop fits into the image, return the center square.
    """
    crop_width = crop_height = min(width, height)
    across, down = 0.5, 0.5
    for area, ratio in zip(draws[0 : 2 * CROP_TRIES : 2], draws[1 : 2 * CROP_TRIES : 2], strict=True):
        pixels = width * height * (MIN_CROP_AREA + area * (1 - MIN_CROP_AREA))
        aspect_ratio = math.exp((2 * ratio - 1) * math.log(MAX_ASPECT_RATIO))
        tried = max(1, round(math.sqrt(pixels * aspect_ratio))), max(1, round(math.sqrt(pixels / aspect_ratio)))
        if tried[0] <= width and tried[1] <= height:
            (crop_width, crop_height), (across, down) = tried, draws[-3:-1]
            break
    left, top = int(across * (width - crop_width + 1)), int(down * (height - crop_height + 1))
    return left, top, left + crop_width, top + crop_height
