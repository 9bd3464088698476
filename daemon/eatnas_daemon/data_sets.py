"""List, describe and download data sets. The training package does the work, in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eatnas_daemon.training_programs import run_training_program
from eatnas_db.settings import Settings

PROGRAM: Final = "eatnas_training.prepare"


@dataclass(frozen=True, slots=True)
class DataDescription:
    """The shape of a data set after its transformations, the size of each part, and the digest of its content."""

    resolution: int
    channels: int
    classes: int
    train_images: int
    validation_images: int
    test_images: int
    data_digest: str


@dataclass(frozen=True, slots=True)
class FinalDataDescription:
    """The number of images that final models are trained and tested on."""

    train_images: int
    test_images: int


def data_with_root(settings: Settings, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `data` section of a spec with the home's data folder as the default root."""
    return {**data, "root": data.get("root") or str(settings.data)}


def list_data_sets() -> list[dict[str, Any]]:
    """Return a row for each known data set. Raises `DataError`."""
    rows: list[dict[str, Any]] = run_training_program(PROGRAM, "list", request={})
    return rows


def describe_data_set(data: Mapping[str, Any]) -> DataDescription:
    """Read a data set and describe its training and validation parts. Raises `DataError`."""
    return DataDescription(**run_training_program(PROGRAM, "describe", request=data))


def describe_final_data(data: Mapping[str, Any]) -> FinalDataDescription:
    """Read a data set and describe the parts that final models use. Raises `DataError` if it has no test part."""
    return FinalDataDescription(**run_training_program(PROGRAM, "final", request=data))


def download_data_set(name: str, root: str) -> DataDescription:
    """Download the missing files of a data set into `root` and verify all of them. Raises `DataError`."""
    return DataDescription(**run_training_program(PROGRAM, "download", request={"name": name, "root": root}))
