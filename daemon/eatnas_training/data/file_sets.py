"""List the files of data sets: folders with one folder for each class, and CSV files that list images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eatnas_db.domain.data_source import CSV, split_source
from eatnas_db.errors import DataError
from eatnas_training.data.catalog import FOLDER_SETS
from eatnas_training.data.csv_listing import has_test_rows, list_csv
from eatnas_training.data.image_folder import TEST, ImageFolder, list_test_folder, list_training_folder


def is_file_set(name: str) -> bool:
    """Return whether a data set is a folder of image files or a CSV file that lists them."""
    return name in FOLDER_SETS or split_source(name)[0] == CSV


def list_training_files(data: Mapping[str, Any]) -> ImageFolder:
    """List the training part of a `DataSpec`. Raises `DataError`."""
    name = str(data["name"])
    if name in FOLDER_SETS:
        return list_training_folder(data_root(data), name)
    return list_csv(data, train=True)


def list_test_files(data: Mapping[str, Any], train: ImageFolder) -> ImageFolder:
    """List the test part of a `DataSpec`, which has the classes of `train`. Raises `DataError`."""
    name = str(data["name"])
    if name in FOLDER_SETS:
        return list_test_folder(data_root(data), name, train)
    return list_csv(data, train=False)


def has_test_files(data: Mapping[str, Any]) -> bool:
    """Return whether a `DataSpec` has a test part."""
    return (data_root(data) / TEST).is_dir() if data["name"] in FOLDER_SETS else has_test_rows(data)


def watched_folders(data: Mapping[str, Any], folder: ImageFolder) -> list[str]:
    """Return the paths whose state changes when a file is added to the data set or removed from it."""
    root = [str(data_root(data))] if data["name"] in FOLDER_SETS else []
    return [*root, *(f"{folder.top}/{name}" for name in folder.folders)]


def data_root(data: Mapping[str, Any]) -> Path:
    """Return the folder of the files. Raises `DataError` if the spec names no folder."""
    if not data.get("root"):
        raise DataError(f"{data['name']}: set data.root to the folder of its files")
    return Path(str(data["root"])).expanduser()
