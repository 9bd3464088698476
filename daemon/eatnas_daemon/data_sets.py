"""List, describe and download data sets. The training package does this work, in a separate process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eatnas_daemon.training_programs import run_training_program
from eatnas_db.domain.data_state import (
    NO_DATA_CHANNELS,
    NO_DATA_CLASSES,
    NO_DATA_DIGEST,
    NO_DATA_RESOLUTION,
    DataState,
)
from eatnas_db.errors import DamagedRecordError
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.settings import Settings

PROGRAM: Final = "eatnas_training.prepare"


@dataclass(frozen=True, slots=True)
class DataDescription:
    """The shape of a data set's images after the transformations, the size of each part, and the digests.

    `data_digest` covers the content of the images or, if they are streamed, their names, sizes and classes. Only
    streamed images have the two other digests. `files_digest` also covers the modification times of the files.
    `content_digest` covers the bytes of the files, and is None if not all files have been read. `plugin` is the
    identity of a plug-in's source. `notes` has a sentence for each kind of file that a search ignores.
    """

    resolution: int
    channels: int
    classes: int
    train_images: int
    validation_images: int
    test_images: int
    data_digest: str
    files_digest: str | None = None
    content_digest: str | None = None
    plugin: dict[str, str] | None = None
    notes: Sequence[str] = ()

    @property
    def state(self) -> DataState:
        """The digests, and the plug-in that provides the images."""
        return DataState(self.data_digest, self.files_digest, self.content_digest, self.plugin)


NO_IMAGES: Final = DataDescription(
    resolution=NO_DATA_RESOLUTION,
    channels=NO_DATA_CHANNELS,
    classes=NO_DATA_CLASSES,
    train_images=0,
    validation_images=0,
    test_images=0,
    data_digest=NO_DATA_DIGEST,
)
"""The description for a search whose training reads no images."""


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A data set whose files have all been read.

    `folder` describes an image folder: its classes, skipped files and unreadable images. A field is None if it depends
    on a resolution that is not given, or on images that are unreadable.
    """

    resolution: int | None
    channels: int
    classes: int
    train_images: int | None
    validation_images: int | None
    test_images: int
    data_digest: str | None
    files_digest: str | None = None
    content_digest: str | None = None
    plugin: dict[str, str] | None = None
    notes: Sequence[str] = ()
    folder: dict[str, list[dict[str, Any]]] | None = None


@dataclass(frozen=True, slots=True)
class FinalDataDescription:
    """The numbers of images on which final models are trained and tested."""

    train_images: int
    test_images: int


def locate_search_data(settings: Settings, search: SearchRecord) -> dict[str, Any]:
    """Return the section `data` of a search's spec, with its folder. Raises `DamagedRecordError` if the record holds no
    such section, because somebody edited it manually.
    """
    try:
        return settings.locate_data(search.spec["data"])
    except (LookupError, TypeError, AttributeError):
        raise DamagedRecordError(
            f"the spec of search {search.name!r} has no readable section `data`; restore a backup, or correct the spec"
        ) from None


def list_data_sets() -> list[dict[str, Any]]:
    """Return a row for each known data set. Raises `DataError`."""
    rows: list[dict[str, Any]] = run_training_program(PROGRAM, "list", request={})
    return rows


def describe_data_set(data: Mapping[str, Any]) -> DataDescription:
    """Read a data set and describe its training and validation parts. Raises `DataError`."""
    return DataDescription(**run_training_program(PROGRAM, "describe", request=data, show_progress=True))


def verify_data_set(data: Mapping[str, Any]) -> DataDescription:
    """Read all files again, without the cache, and describe the data set. Raises `DataError`."""
    return DataDescription(**run_training_program(PROGRAM, "verify", request=data, show_progress=True))


def describe_final_data(data: Mapping[str, Any]) -> FinalDataDescription:
    """Read a data set and describe the parts that final models use. Raises `DataError` if the data set has no test
    part.
    """
    return FinalDataDescription(**run_training_program(PROGRAM, "final", request=data, show_progress=True))


def prepare_data_set(data: Mapping[str, Any]) -> PreparedData:
    """Download the missing files of a data set into its root, and read all its files. Raises `DataError`."""
    return PreparedData(**run_training_program(PROGRAM, "download", request=data, show_progress=True))
