"""The data sets that a spec can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import DataError

DIGITS_IMAGES: Final = 1797
DIGITS_TEST_IMAGES: Final = 360
_FOLDER: Final = "a folder of your own: root"


@dataclass(frozen=True, slots=True)
class DataSetInfo:
    """The size of a data set and its source. A figure of 0 depends on the folder."""

    images: int
    test_images: int
    side: int
    channels: int
    classes: int
    source: str
    needs_download: bool


DATA_SETS: Final[dict[str, DataSetInfo]] = {
    "digits": DataSetInfo(
        DIGITS_IMAGES - DIGITS_TEST_IMAGES, DIGITS_TEST_IMAGES, 8, 1, 10, "scikit-learn, bundled", False
    ),
    "MNIST": DataSetInfo(60_000, 10_000, 28, 1, 10, "IDX files", True),
    "FashionMNIST": DataSetInfo(60_000, 10_000, 28, 1, 10, "IDX files", True),
    "CIFAR10": DataSetInfo(50_000, 10_000, 32, 3, 10, "pickled batches", True),
    "CIFAR100": DataSetInfo(50_000, 10_000, 32, 3, 100, "pickled batches", True),
    "SVHN": DataSetInfo(73_257, 26_032, 32, 3, 10, "MATLAB files", True),
    "ImageFolder": DataSetInfo(0, 0, 0, 3, 0, f"{_FOLDER}/class/image", False),
    "ImageNet": DataSetInfo(1_281_167, 50_000, 224, 3, 1000, f"{_FOLDER}/train", False),
}
IDX_SETS: Final = ("MNIST", "FashionMNIST")
CIFAR_SETS: Final = ("CIFAR10", "CIFAR100")
FOLDER_SETS: Final = ("ImageFolder", "ImageNet")


def get_data_set(name: str) -> DataSetInfo:
    """Return the data set of that name. Raises `DataError` with the most similar name."""
    if name not in DATA_SETS:
        raise DataError(f"unknown data set {name!r}{did_you_mean(name, DATA_SETS)} (known: {', '.join(DATA_SETS)})")
    return DATA_SETS[name]
