"""Images by name, as uint8 arrays; the split into train and validation; the digest of what is used.

Small sets lie whole in memory; of folders too large for that only the files' names do, see `streamed`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import DataError
from eatnas_training.dataset_files import (
    DIGITS_TEST,
    IDX_SETS,
    Bytes,
    Images,
    Integers,
    read_cifar,
    read_digits,
    read_idx_set,
    read_svhn,
)
from eatnas_training.image_folder import Folder, classes_in, folder_of, picture, size_of

RESIDENT_BYTES: Final = 2**30
"""Folders of images that would take more than this at their resolution are streamed."""
VALIDATION_SHARE: Final = 5
RESIZED_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True)
class Known:
    """A data set that we can name; side 0 and images 0 are those of the folder at hand."""

    images: int
    test_images: int
    side: int
    channels: int
    classes: int
    source: str
    needs_download: bool


KNOWN: Final[dict[str, Known]] = {
    "digits": Known(1797 - DIGITS_TEST, DIGITS_TEST, 8, 1, 10, "scikit-learn, bundled", False),
    "MNIST": Known(60_000, 10_000, 28, 1, 10, "IDX files", True),
    "FashionMNIST": Known(60_000, 10_000, 28, 1, 10, "IDX files", True),
    "CIFAR10": Known(50_000, 10_000, 32, 3, 10, "pickled batches", True),
    "CIFAR100": Known(50_000, 10_000, 32, 3, 100, "pickled batches", True),
    "SVHN": Known(73_257, 26_032, 32, 3, 10, "MATLAB files", True),
    "ImageFolder": Known(0, 0, 0, 3, 0, "a folder of your own: root/class/image", False),
    "ImageNet": Known(1_281_167, 50_000, 224, 3, 1000, "a folder of your own: root/train", False),
}


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a worker may see: the two parts of the training part. `digest` names their every byte."""

    train: Images
    validation: Images
    digest: str


@dataclass(frozen=True, slots=True)
class FinalData:
    """What the worker of a final model sees: train and validation images, in this order, and the test part.

    `digest` names their every byte.
    """

    train: Images
    test: Images
    digest: str


@dataclass(frozen=True, slots=True)
class Files:
    """A part that is read from its files when it is needed; `labels` int64 `[N]`."""

    paths: list[str]
    labels: Integers


@dataclass(frozen=True, slots=True)
class StreamedData:
    """What a worker may see of a set that streams. `digest` names the files and their sizes, not their bytes.

    `held_out` is for validation; of a final model's data it is the test part, and `train` is all the rest.
    """

    train: Files
    held_out: Files
    side: int
    classes: int
    digest: str


def load_training(data: Mapping[str, Any]) -> TrainingData:
    """The train and validation images of a `DataSpec` as a mapping; the test set is not among them.

    Raises `DataError` when the set is unknown, missing or damaged, holds too few images, or has to be `streamed`.
    """
    whole = _load(data, train=True)
    resolution = data.get("resolution")
    train, validation = split(len(whole.labels), data)
    parts = [
        Images(resized(whole.images[indices], resolution), whole.labels[indices], whole.classes)
        for indices in (train, validation)
    ]
    return TrainingData(parts[0], parts[1], _digest(parts, [train, validation]))


def load_final(data: Mapping[str, Any]) -> FinalData:
    """What a final model is trained and tested on. Raises `DataError` as `load_training`, and without a test part."""
    whole = _load(data, train=True)
    both = np.concatenate(split(len(whole.labels), data))
    train = Images(resized(whole.images[both], data.get("resolution")), whole.labels[both], whole.classes)
    if data["name"] == "ImageFolder":
        _test_folder(data, folder_of(_root(data), data["name"], train=True))
    test = load_test(data)
    return FinalData(train, test, _digest([train, test], [both, np.arange(len(test.labels))]))


def streamed(data: Mapping[str, Any], *, final: bool = False) -> StreamedData | None:
    """The files of a `DataSpec` whose images are decoded while a network trains; None for all other sets.

    ImageNet always streams, a folder of one's own if its training part exceeds `RESIDENT_BYTES`. `final`: what a final
    model is trained and tested on. Raises `DataError`.
    """
    name = str(data["name"])
    known(name)
    if name not in ("ImageFolder", "ImageNet"):
        return None
    folder = folder_of(_root(data), name, train=True)
    side = _side(data)
    if name == "ImageFolder" and folder.resident_bytes(side) <= RESIDENT_BYTES:
        return None
    sha = hashlib.sha256(f"streamed, side {side}, {folder.classes} classes\n".encode())
    train, validation = split(len(folder.names), data)
    chosen = [("train", folder, train), ("validation", folder, validation)]
    if final:
        test = _test_folder(data, folder)
        chosen = [("train", folder, np.concatenate((train, validation))), ("test", test, np.arange(len(test.names)))]
    parts = []
    for word, source, indices in chosen:
        paths = [source.path(index) for index in indices.tolist()]
        sha.update(f"{word} {len(paths)}\n".encode())
        for index, path in zip(indices.tolist(), paths, strict=True):
            sha.update(f"{source.labels[index]} {size_of(path)} ".encode() + os.fsencode(source.names[index]) + b"\n")
        parts.append(Files(paths, source.labels[indices]))
    return StreamedData(parts[0], parts[1], side, folder.classes, sha.hexdigest())


def load_test(data: Mapping[str, Any]) -> Images:
    """The test part of a `DataSpec`: for final models, never for a search. Raises `DataError`."""
    whole = _load(data, train=False)
    return Images(resized(whole.images, data.get("resolution")), whole.labels, whole.classes)


def known(name: str) -> Known:
    """The set of that name. Raises `DataError` with the nearest known name."""
    if name not in KNOWN:
        lower = {word.lower(): word for word in KNOWN}
        near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
        hint = f"; did you mean {lower[near[0]]}?" if near else ""
        raise DataError(f"unknown data set {name!r}{hint} (known: {', '.join(KNOWN)})")
    return KNOWN[name]


def split(count: int, data: Mapping[str, Any]) -> tuple[Integers, Integers]:
    """Ascending indices of the train and the validation images among `count`.

    They hang on `split_seed` alone: fewer train images are a subset of more, and never meet validation.
    Raises `DataError` when the two together ask for more than there are.
    """
    validation = data.get("validation_images") or count // VALIDATION_SHARE
    train = data.get("train_images") or count - validation
    if train < 1 or validation < 1 or train + validation > count:
        raise DataError(
            f"data: {train} train and {validation} validation images do not fit into the "
            f"{count} images of {data['name']}'s training part"
        )
    chance = KeyedRng(int(data.get("split_seed") or 0), "split")
    keys = np.array([chance.bits() for _ in range(count)], dtype=np.uint64)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    return np.sort(order[validation : validation + train]), np.sort(order[:validation])


def resized(images: Bytes, side: int | None) -> Bytes:
    """Images `[N, C, H, W]` brought to `side` x `side` by a triangle filter (area-like when shrinking)."""
    height, width = images.shape[2:]
    if side is None or (height, width) == (side, side):
        return images
    rows, columns = _filter(height, side), _filter(width, side)
    out = np.empty((*images.shape[:2], side, side), np.uint8)
    for start in range(0, len(images), RESIZED_AT_ONCE):
        piece = images[start : start + RESIZED_AT_ONCE].astype(np.float64)
        out[start : start + RESIZED_AT_ONCE] = np.rint(rows @ piece @ columns.T)
    return out


def _filter(length: int, side: int) -> NDArray[np.float64]:
    """Weights `[side, length]`, each row summing to 1."""
    scale = length / side
    support = max(1.0, scale)
    centres = (np.arange(side) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(length)) / support)
    normalised: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normalised


def _digest(parts: list[Images], indices: list[Integers]) -> str:
    sha = hashlib.sha256()
    for part, chosen in zip(parts, indices, strict=True):
        for array in (part.images, part.labels, chosen):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _load(data: Mapping[str, Any], *, train: bool) -> Images:
    name = str(data["name"])
    classes = known(name).classes
    if name == "digits":
        return read_digits(train=train)
    root = _root(data)
    if name in IDX_SETS:
        return read_idx_set(root, name, classes, train=train)
    if name in ("CIFAR10", "CIFAR100"):
        return read_cifar(root, name, classes, train=train)
    if name == "SVHN":
        return read_svhn(root, classes, train=train)
    return _decoded(folder_of(root, name, train=train), name, _side(data))


def _root(data: Mapping[str, Any]) -> Path:
    if not data.get("root"):
        raise DataError(f"{data['name']}: give data.root, the folder where its files lie")
    return Path(str(data["root"])).expanduser()


def _side(data: Mapping[str, Any]) -> int:
    side = data.get("resolution") or KNOWN[data["name"]].side
    if not side:
        raise DataError(f"{data['name']}: set data.resolution, the side that its images are brought to")
    return int(side)


def _decoded(folder: Folder, name: str, side: int) -> Images:
    """Each file's middle square, resized."""
    if folder.resident_bytes(side) > RESIDENT_BYTES:
        raise DataError(f"{name}: {folder.top} holds {len(folder.names)} files, too many to lie in memory at {side}")
    images = np.empty((len(folder.names), 3, side, side), np.uint8)
    for number in range(len(folder.names)):
        pixels: Bytes = np.asarray(picture(folder.path(number)))
        height, width = pixels.shape[:2]
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        middle = pixels[top : top + square, left : left + square].transpose(2, 0, 1)
        images[number] = resized(middle[None], side)[0]
    return Images(images, folder.labels, folder.classes)


def _test_folder(data: Mapping[str, Any], train: Folder) -> Folder:
    """The test part of a folder set. Raises `DataError` where it is missing, or has other classes than `train`."""
    test = folder_of(_root(data), str(data["name"]), train=False)
    if odd := sorted(set(classes_in(train.top)) ^ set(classes_in(test.top))):
        raise DataError(f"{data['name']}: {train.top} and {test.top} must have the same classes; one lacks {odd[0]!r}")
    return test
