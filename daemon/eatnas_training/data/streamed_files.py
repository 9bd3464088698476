"""Image folders that are too large for memory: the files of each part, which are decoded during training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eatnas_training.data.arrays import Integers
from eatnas_training.data.catalog import FOLDER_SETS, get_data_set
from eatnas_training.data.datasets import RESIDENT_BYTES, data_root, image_side, list_test_folder, split
from eatnas_training.data.image_folder import file_size, list_image_folder


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The image files of one part; `labels` int64 `[N]`."""

    paths: list[str]
    labels: Integers


@dataclass(frozen=True, slots=True)
class StreamedFiles:
    """The files of a streamed data set. `digest` covers their names and sizes, not their content.

    `held_out` is the validation images; for a final model it is the test images, and `train` is all others.
    """

    train: ImageFiles
    held_out: ImageFiles
    side: int
    classes: int
    digest: str


def list_streamed_files(data: Mapping[str, Any], *, final_model: bool = False) -> StreamedFiles | None:
    """List the files of a `DataSpec` that is streamed; return None for a data set that fits into memory.

    ImageNet is always streamed; another folder is if its training images exceed `RESIDENT_BYTES`. `final_model`: list
    the parts that a final model uses. Raises `DataError`.
    """
    name = str(data["name"])
    get_data_set(name)
    if name not in FOLDER_SETS:
        return None
    folder = list_image_folder(data_root(data), name, train=True)
    side = image_side(data)
    if name == "ImageFolder" and folder.resident_bytes(side) <= RESIDENT_BYTES:
        return None
    sha = hashlib.sha256(f"streamed, side {side}, {folder.classes} classes\n".encode())
    train, validation = split(len(folder.names), data)
    parts = [("train", folder, train), ("validation", folder, validation)]
    if final_model:
        test = list_test_folder(data, folder)
        parts = [("train", folder, np.concatenate((train, validation))), ("test", test, np.arange(len(test.names)))]
    part_files = []
    for part, source, indices in parts:
        paths = [source.path(index) for index in indices.tolist()]
        sha.update(f"{part} {len(paths)}\n".encode())
        for index, path in zip(indices.tolist(), paths, strict=True):
            sha.update(f"{source.labels[index]} {file_size(path)} ".encode() + os.fsencode(source.names[index]) + b"\n")
        part_files.append(ImageFiles(paths, source.labels[indices]))
    return StreamedFiles(
        train=part_files[0],
        held_out=part_files[1],
        side=side,
        classes=folder.classes,
        digest=sha.hexdigest(),
    )
