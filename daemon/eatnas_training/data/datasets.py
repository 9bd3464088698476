"""Data sets in memory: the split into training and validation images, and the digest of the images used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import DataError
from eatnas_training.data.arrays import Bytes, Images, Integers, resize_images
from eatnas_training.data.catalog import CIFAR_SETS, DATA_SETS, IDX_SETS, get_data_set
from eatnas_training.data.dataset_files import read_cifar, read_digits, read_idx_set, read_svhn
from eatnas_training.data.image_folder import ImageFolder, list_classes, list_image_folder, open_image

RESIDENT_BYTES: Final = 2**30
"""An image folder that would take more memory than this at its resolution is streamed."""
VALIDATION_SHARE: Final = 5
"""By default one image in this many is for validation."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training and the validation images of a search. `digest` covers every byte."""

    train: Images
    validation: Images
    digest: str


@dataclass(frozen=True, slots=True)
class FinalData:
    """The images of a final model: `train` is the training images followed by the validation images.

    `digest` covers every byte.
    """

    train: Images
    test: Images
    digest: str


def load_training(data: Mapping[str, Any]) -> TrainingData:
    """Load the training and the validation images of a `DataSpec`, never its test images.

    Raises `DataError` if the data set is unknown, missing, damaged, too small or too large for memory.
    """
    images = _load(data, train=True)
    resolution = data.get("resolution")
    train_indices, validation_indices = split(len(images.labels), data)
    train, validation = (
        Images(resize_images(images.images[indices], resolution), images.labels[indices], images.classes)
        for indices in (train_indices, validation_indices)
    )
    return TrainingData(train, validation, _digest([train, validation], [train_indices, validation_indices]))


def load_final(data: Mapping[str, Any]) -> FinalData:
    """Load the images that a final model is trained and tested on.

    Raises `DataError` like `load_training`, and if there is no test part.
    """
    images = _load(data, train=True)
    indices = np.concatenate(split(len(images.labels), data))
    train = Images(
        resize_images(images.images[indices], data.get("resolution")), images.labels[indices], images.classes
    )
    if data["name"] == "ImageFolder":
        list_test_folder(data, list_image_folder(data_root(data), data["name"], train=True))
    test = load_test(data)
    return FinalData(train, test, _digest([train, test], [indices, np.arange(len(test.labels))]))


def load_test(data: Mapping[str, Any]) -> Images:
    """Load the test images of a `DataSpec`: for final models, never for a search. Raises `DataError`."""
    images = _load(data, train=False)
    return Images(resize_images(images.images, data.get("resolution")), images.labels, images.classes)


def split(count: int, data: Mapping[str, Any]) -> tuple[Integers, Integers]:
    """Return the sorted indices of the training and of the validation images among `count`.

    The order depends on `split_seed` only: with fewer training images they are a subset, and the validation images
    stay the same. Raises `DataError` if `count` is too small for both.
    """
    validation = data.get("validation_images") or count // VALIDATION_SHARE
    train = data.get("train_images") or count - validation
    if train < 1 or validation < 1 or train + validation > count:
        raise DataError(
            f"data: {train} training and {validation} validation images exceed the {count} training images of "
            f"{data['name']}; lower data.train_images or data.validation_images"
        )
    rng = KeyedRng(int(data.get("split_seed") or 0), "split")
    keys = np.array([rng.bits() for _ in range(count)], dtype=np.uint64)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    return np.sort(order[validation : validation + train]), np.sort(order[:validation])


def data_root(data: Mapping[str, Any]) -> Path:
    """Return the folder of the files. Raises `DataError` if the spec names none."""
    if not data.get("root"):
        raise DataError(f"{data['name']}: set data.root to the folder of its files")
    return Path(str(data["root"])).expanduser()


def image_side(data: Mapping[str, Any]) -> int:
    """Return the side that images are resized to. Raises `DataError` if the spec does not set it."""
    side = data.get("resolution") or DATA_SETS[data["name"]].side
    if not side:
        raise DataError(f"{data['name']}: set data.resolution, the side that images are resized to")
    return int(side)


def list_test_folder(data: Mapping[str, Any], train: ImageFolder) -> ImageFolder:
    """List the test part of a folder data set. Raises `DataError` if it is missing or has other classes."""
    test = list_image_folder(data_root(data), str(data["name"]), train=False)
    if differing := sorted(set(list_classes(train.top)) ^ set(list_classes(test.top))):
        raise DataError(
            f"{data['name']}: {train.top} and {test.top} must have the same classes; only one has {differing[0]!r}"
        )
    return test


def _load(data: Mapping[str, Any], *, train: bool) -> Images:
    name = str(data["name"])
    classes = get_data_set(name).classes
    if name == "digits":
        return read_digits(train=train)
    root = data_root(data)
    if name in IDX_SETS:
        return read_idx_set(root, name, classes, train=train)
    if name in CIFAR_SETS:
        return read_cifar(root, name, classes, train=train)
    if name == "SVHN":
        return read_svhn(root, classes, train=train)
    return _read_image_folder(list_image_folder(root, name, train=train), name, image_side(data))


def _read_image_folder(folder: ImageFolder, name: str, side: int) -> Images:
    """Return the center square of each file, resized."""
    if folder.resident_bytes(side) > RESIDENT_BYTES:
        raise DataError(
            f"{name}: the {len(folder.names)} images in {folder.top} do not fit into {RESIDENT_BYTES >> 20} MiB "
            f"at {side} × {side} pixels; lower data.resolution"
        )
    images = np.empty((len(folder.names), 3, side, side), np.uint8)
    for number in range(len(folder.names)):
        pixels: Bytes = np.asarray(open_image(folder.path(number)))
        height, width = pixels.shape[:2]
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        center = pixels[top : top + square, left : left + square].transpose(2, 0, 1)
        images[number] = resize_images(center[None], side)[0]
    return Images(images, folder.labels, folder.classes)


def _digest(parts: list[Images], indices: list[Integers]) -> str:
    sha = hashlib.sha256()
    for part, part_indices in zip(parts, indices, strict=True):
        for array in (part.images, part.labels, part_indices):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
