"""Read the items of a map-style data set into memory, and check them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Final

import numpy as np

from eatnas_db.datasets import ImageDataset
from eatnas_db.errors import DataError
from eatnas_training.data.arrays import RESIDENT_BYTES, SKIP, Bytes, Images, resize_images
from eatnas_training.data.folder_content import REPORT_SECONDS, LoadProgress, Steps
from eatnas_training.data.image_items import UnusableItemError, item_channels, to_label, to_pixels
from eatnas_training.data.random_states import refuse_global_draws
from eatnas_training.error_messages import describe_exception

PROBES: Final = 8
"""The number of items that are read twice, to detect items that depend on more than their index."""


def read_items(part: ImageDataset, data: Mapping[str, Any], *, train: bool) -> Steps[Images]:
    """Read all items of one part. Raises `DataError`, which names the first unusable item.

    With `on_unreadable: skip`, skip unusable items instead.
    """
    name = str(data["name"])
    with refuse_global_draws(name):
        reader = _ItemReader(name, part, data.get("resolution"), skip=data.get("on_unreadable") == SKIP)
        count = reader.count()
        reported = time.monotonic()
        for index in range(count):
            reader.read(index, count)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                yield LoadProgress(index + 1, count)
        reader.check_again(count)
    return reader.finish(train=train)


@dataclass(slots=True)
class _ItemReader:
    """Reads items, and keeps the pixels and labels of usable items."""

    name: str
    part: ImageDataset
    resolution: int | None
    skip: bool
    images: Bytes | None = None
    labels: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    """The indices of the usable items."""
    unusable: dict[int, str] = field(default_factory=dict)
    channels: int | None = None
    stored_side: int | None = None
    """The side that all items must have, unless they are resized."""
    classes: int | None = None

    def __post_init__(self) -> None:
        self.channels, self.stored_side = self.part.channels, self.part.resolution
        names = self.part.class_names
        self.classes = None if names is None else len(names)
        if self.channels not in (None, 1, 3):
            raise DataError(f"{self.name} has {self.channels} channels; only 1 (grey) and 3 (RGB) are possible")

    def count(self) -> int:
        """Return the number of items."""
        items = self.part.items
        if not hasattr(items, "__getitem__") or not hasattr(items, "__len__"):
            raise DataError(
                f"{self.name} is not a map-style data set: {type(items).__name__} has no __len__ or no __getitem__"
            )
        try:
            count = len(items)
        except Exception as error:
            raise DataError(f"{self.name} has no length: {describe_exception(error)}") from error
        if count == 0:
            raise DataError(f"{self.name} has no items")
        return count

    def read(self, index: int, count: int) -> None:
        """Read one of `count` items. Raises `DataError` if the item is unusable, unless unusable items are skipped."""
        try:
            pixels, label = self._fetch(index)
        except UnusableItemError as error:
            if not self.skip:
                raise DataError(
                    f"item {index} of {self.name} cannot be used: {error}; correct the data set, or set "
                    "data.on_unreadable to skip"
                ) from error
            self.unusable[index] = str(error)
            return
        if self.images is None:
            self.images = self._allocate(count, pixels)
        self.images[len(self.used)] = pixels
        self.labels.append(label)
        self.used.append(index)

    def check_again(self, count: int) -> None:
        """Read some items again. Raise `DataError` if one of these items or the number of items has changed."""
        if (now := self.count()) != count:
            raise DataError(f"the length of {self.name} changed from {count} to {now} while its items were read")
        for position in np.unique(np.linspace(0, len(self.used) - 1, min(PROBES, len(self.used))).astype(int)):
            index = self.used[position]
            assert self.images is not None
            try:
                pixels, label = self._fetch(index)
                same = label == self.labels[position] and np.array_equal(pixels, self.images[position])
            except UnusableItemError:
                same = False
            if not same:
                raise DataError(
                    f"item {index} of {self.name} differs between two reads; an item must depend on its index alone"
                )

    def finish(self, *, train: bool) -> Images:
        """Return the images. Raises `DataError` if fewer than two classes have training images."""
        if self.images is None:
            index, reason = next(iter(self.unusable.items()))
            raise DataError(f"no item of {self.name} can be used; item {index}: {reason}")
        labels = np.array(self.labels, np.int64)
        classes = int(labels.max()) + 1 if self.classes is None else self.classes
        present = np.unique(labels)
        if train and len(present) < 2:
            raise DataError(f"{self.name} has only one class with images, {present[0]}, and a search needs two")
        skipped = tuple(f"item {index}" for index in self.unusable)
        given = self.part.classes
        names = None if given is None or isinstance(given, Integral) else self.part.class_names
        return Images(self.images[: len(labels)], labels, classes, skipped, self.part.digest, names)

    def _fetch(self, index: int) -> tuple[Bytes, int]:
        try:
            item = self.part.items[index]
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:  # code of another package may raise any exception
            raise UnusableItemError(describe_exception(error)) from error
        image, label = _split_item(item)
        if self.channels is None:
            self.channels = item_channels(image)
        pixels = to_pixels(image, self.channels)
        self._check_size(pixels)
        return self._resize(pixels), to_label(label, self.classes)

    def _check_size(self, pixels: Bytes) -> None:
        height, width = pixels.shape[1:]
        if self.stored_side is None and self.resolution is None:
            self.stored_side = height
        if self.stored_side is not None and (height, width) != (self.stored_side, self.stored_side):
            expected = f"{self.stored_side} × {self.stored_side}"
            advice = "" if self.part.resolution else "; set data.resolution to resize all images"
            raise UnusableItemError(f"it has {height} × {width} pixels instead of {expected}{advice}")

    def _resize(self, pixels: Bytes) -> Bytes:
        if self.resolution is None:
            return pixels
        height, width = pixels.shape[1:]
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        resized: Bytes = resize_images(pixels[None, :, top : top + square, left : left + square], self.resolution)[0]
        return resized

    def _allocate(self, count: int, pixels: Bytes) -> Bytes:
        needed = count * pixels.size
        if needed > RESIDENT_BYTES:
            raise DataError(
                f"{self.name}: its {count} images need {needed >> 20} MiB at {pixels.shape[1]} × {pixels.shape[2]} "
                f"pixels (limit: {RESIDENT_BYTES >> 20} MiB); lower data.resolution, or store the images as files and "
                "use ImageFolder or csv:PATH, which are streamed"
            )
        return np.zeros((count, *pixels.shape), np.uint8)


def _split_item(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and {"image", "label"} <= item.keys():
        return item["image"], item["label"]
    if isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 2:
        return item[0], item[1]
    raise UnusableItemError(f"it is {type(item).__name__}, not a pair of an image and its label")
