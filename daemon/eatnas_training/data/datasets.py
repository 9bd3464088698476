"""Load data sets into memory: split them into training and validation images, and compute the digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import DataError
from eatnas_training.data.arrays import RESIDENT_BYTES, SKIP, Bytes, Images, Integers, resize_images
from eatnas_training.data.catalog import CIFAR_SETS, IDX_SETS, get_data_set, is_map_style
from eatnas_training.data.dataset_files import read_cifar, read_digits, read_idx_set, read_svhn
from eatnas_training.data.file_sets import data_root, is_file_set, list_test_files, list_training_files
from eatnas_training.data.folder_cache import read_folder
from eatnas_training.data.folder_content import (
    FolderContent,
    Steps,
    files_digest,
    read_file_times,
    run_to_end,
    unreadable_error,
)
from eatnas_training.data.image_folder import ImageFolder

VALIDATION_SHARE: Final = 5
"""The default share of validation images is one divided by this number."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training and the validation images of a search. `digest` covers every byte of both parts."""

    train: Images
    validation: Images
    digest: str


@dataclass(frozen=True, slots=True)
class FinalData:
    """The images of a final model. `train` contains the training images, followed by the validation images.

    `digest` covers every byte of all images. `search_digest` is the digest that a search computes for the training and
    validation images.
    """

    train: Images
    test: Images
    digest: str
    search_digest: str


def load_training(data: Mapping[str, Any]) -> TrainingData:
    """Load the training and the validation images of a `DataSpec`, never its test images.

    Raises `DataError` if the data set is unknown, missing, damaged, too small or too large for memory.
    """
    return run_to_end(training_steps(data))


def training_steps(data: Mapping[str, Any]) -> Steps[TrainingData]:
    """Do the same as `load_training`, and yield the progress."""
    images = yield from _load(data, train=True)
    train_indices, validation_indices = split(len(images.labels), data, images.labels)
    train, validation = (_select(images, indices, data) for indices in (train_indices, validation_indices))
    return TrainingData(train, validation, _digest([train, validation], [train_indices, validation_indices]))


def load_final(data: Mapping[str, Any]) -> FinalData:
    """Load the images on which a final model is trained and tested.

    Raises `DataError` for the same reasons as `load_training`, and if there is no test part.
    """
    return run_to_end(final_steps(data))


def final_steps(data: Mapping[str, Any]) -> Steps[FinalData]:
    """Do the same as `load_final`, and yield the progress."""
    images = yield from _load(data, train=True)
    parts = split(len(images.labels), data, images.labels)
    indices = np.concatenate(parts)
    train = _select(images, indices, data)
    search_digest = _digest([_select(images, part, data) for part in parts], list(parts))
    test = yield from testing_steps(data)
    _require_same_kind(str(data["name"]), train, test)
    digest = _digest([train, test], [indices, np.arange(len(test.labels))])
    return FinalData(train, test, digest, search_digest)


def _require_same_kind(name: str, train: Images, test: Images) -> None:
    """Raise `DataError` if the test part has other classes or another image shape than the training part."""
    problem = None
    if test.labels.max(initial=0) >= train.classes:
        problem = f"the label {test.labels.max()}, but the training part has only {train.classes} classes"
    elif test.images.shape[1:] != train.images.shape[1:]:
        shapes = [" × ".join(map(str, part.images.shape[1:])) for part in (test, train)]
        problem = f"images of {shapes[0]} (channels × height × width), but the training part has images of {shapes[1]}"
    else:
        names = zip(test.class_names or (), train.class_names or (), strict=False)
        for label, (own, other) in enumerate(names):
            if own != other:
                problem = f"the class {own!r} for the label {label}, but the training part has the class {other!r}"
                break
    if problem is not None:
        raise DataError(f"{name}: the test part has {problem}; correct one of the two parts")


def load_test(data: Mapping[str, Any]) -> Images:
    """Load the test images of a `DataSpec`. Only final models need them; a search must never call this function.

    Raises `DataError`.
    """
    return run_to_end(testing_steps(data))


def testing_steps(data: Mapping[str, Any]) -> Steps[Images]:
    """Do the same as `load_test`, and yield the progress."""
    images = yield from _load(data, train=False)
    return _select(images, np.arange(len(images.labels)), data)


def _select(images: Images, indices: Integers, data: Mapping[str, Any]) -> Images:
    selected: Bytes = np.asarray(images.images[indices])
    return replace(images, images=resize_images(selected, data.get("resolution")), labels=images.labels[indices])


def split(count: int, data: Mapping[str, Any], labels: Integers | None = None) -> tuple[Integers, Integers]:
    """Return the sorted indices of the training and of the validation images among `count` images.

    The draw depends on `split_seed` only. A larger `train_images` adds training images, and changes neither the other
    training images nor the validation images. With `stratify`, the draw also depends on the labels, and the share of
    each class in both parts is the same as in the whole data set, within one image. Raises `DataError` if there are too
    few images for both parts.
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
    if data.get("stratify"):
        assert labels is not None
        order = _spread_classes(labels, order)
    return np.sort(order[validation : validation + train]), np.sort(order[:validation])


def _spread_classes(labels: Integers, order: Integers) -> Integers:
    """Return the indices in an order in which every prefix has the same share of each class as the whole, within one
    image.
    """
    ordered = labels[order]
    position = np.empty(len(labels), np.float64)
    for label in np.unique(ordered):
        members = np.flatnonzero(ordered == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(position, kind="stable")]


def image_side(data: Mapping[str, Any]) -> int:
    """Return the side to which images are resized.

    Raises `DataError` if neither the spec nor the data set determines it.
    """
    side = data.get("resolution") or get_data_set(str(data["name"])).side
    if not side:
        raise DataError(f"{data['name']}: set data.resolution to the side in pixels to which images are resized")
    return int(side)


def data_cache(data: Mapping[str, Any]) -> Path | None:
    """Return the cache folder for decoded images; None if the caller keeps no cache."""
    return Path(str(data["cache"])) / "images" if data.get("cache") else None


def _load(data: Mapping[str, Any], *, train: bool) -> Steps[Images]:
    name = str(data["name"])
    classes = get_data_set(name).classes
    if name == "digits":
        return read_digits(train=train)
    if is_map_style(name):
        from eatnas_training.data.map_style import read_map_style  # `map_style` imports torch

        return (yield from read_map_style(data, train=train))
    if is_file_set(name):
        folder = list_training_files(data)
        return (yield from _read_image_folder(folder if train else list_test_files(data, folder), data))
    root = data_root(data)
    if name in IDX_SETS:
        return read_idx_set(root, name, classes, train=train)
    if name in CIFAR_SETS:
        return read_cifar(root, name, classes, train=train)
    return read_svhn(root, classes, train=train)


def _read_image_folder(folder: ImageFolder, data: Mapping[str, Any]) -> Steps[Images]:
    """Return the resized center square of each file."""
    side = image_side(data)
    if folder.resident_bytes(side) > RESIDENT_BYTES:
        raise DataError(
            f"{data['name']}: the {len(folder.names)} images in {folder.top} do not fit into {RESIDENT_BYTES >> 20} "
            f"MiB at {side} × {side} pixels; lower data.resolution"
        )
    digest = files_digest(folder, (yield from read_file_times(folder)))
    content = yield from read_folder(data_cache(data), folder, digest, side)
    assert content.images is not None
    readable = readable_files(folder, content, data)
    if len(readable) == len(folder.names):
        return Images(content.images, folder.labels, folder.classes)
    skipped = tuple(folder.names[index] for index in sorted(content.unreadable))
    return Images(content.images[readable], folder.labels[readable], folder.classes, skipped)


def readable_files(folder: ImageFolder, content: FolderContent, data: Mapping[str, Any]) -> Integers:
    """Return the indices of the files that can be read.

    Raises `DataError` if there are unreadable files, unless the spec skips them.
    """
    if content.unreadable and data.get("on_unreadable") != SKIP:
        raise unreadable_error(folder, content.unreadable)
    readable = np.setdiff1d(np.arange(len(folder.names)), np.array(sorted(content.unreadable), np.int64))
    left = set(folder.labels[readable].tolist())
    for label in set(folder.labels.tolist()) - left:
        empty = folder.top / folder.class_names[label]
        raise DataError(f"{data['name']}: no image in {empty} is readable; replace or delete this class")
    return readable


def _digest(parts: list[Images], indices: list[Integers]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(skipped_bytes(part.skipped))
        if part.identity is not None:
            sha.update(f"identity {part.identity}\n".encode())
    for part, part_indices in zip(parts, indices, strict=True):
        for array in (part.images, part.labels, part_indices):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def skipped_bytes(skipped: Sequence[str]) -> bytes:
    """Return the bytes that skipped files add to a digest. Without skipped files, the result is empty."""
    return b"".join(b"skipped " + os.fsencode(name) + b"\n" for name in skipped)
