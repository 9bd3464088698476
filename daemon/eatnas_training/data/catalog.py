"""The data sets that a spec can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eatnas_db.domain.data_source import CSV, HUGGING_FACE, TORCHVISION, split_source
from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import DataError, PluginError
from eatnas_db.plugins import DATASETS, Plugin, find_function, list_plugins

DIGITS_IMAGES: Final = 1797
DIGITS_TEST_IMAGES: Final = 360
_FOLDER: Final = "your own folder: data.root"


@dataclass(frozen=True, slots=True)
class DataSetInfo:
    """The size and the source of a data set. A number is 0 if it depends on the files."""

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
    "ImageFolder": DataSetInfo(0, 0, 0, 3, 0, f"{_FOLDER}/CLASS/IMAGE", False),
    "ImageNet": DataSetInfo(1_281_167, 50_000, 224, 3, 1000, f"{_FOLDER}/train/CLASS/IMAGE", False),
}
IDX_SETS: Final = ("MNIST", "FashionMNIST")
CIFAR_SETS: Final = ("CIFAR10", "CIFAR100")
FOLDER_SETS: Final = ("ImageFolder", "ImageNet")


SOURCE_SETS: Final[dict[str, DataSetInfo]] = {
    TORCHVISION: DataSetInfo(0, 0, 0, 0, 0, "a class of torchvision.datasets", True),
    HUGGING_FACE: DataSetInfo(0, 0, 0, 0, 0, "a folder of Parquet files", False),
    CSV: DataSetInfo(0, 0, 0, 3, 0, "a CSV file of paths and labels", False),
}
"""The sources: prefixes that stand before a colon in the name of a data set."""
FORMS: Final = {TORCHVISION: "torchvision:CLASS", HUGGING_FACE: "hf:PATH", CSV: "csv:PATH"}
"""For each source, the form of the names of its data sets."""


def get_data_set(name: str) -> DataSetInfo:
    """Return the data set of that name. Raises `DataError`, which suggests a similar name, if there is none."""
    if name in DATA_SETS:
        return DATA_SETS[name]
    source, _ = split_source(name)
    return SOURCE_SETS[source] if source else _describe_plugin(find_data_plugin(name))


def is_map_style(name: str) -> bool:
    """Return whether a data set gives its images one by one, instead of a file format that this package reads whole."""
    return name not in DATA_SETS and split_source(name)[0] != CSV


def describe_plugin(name: str) -> dict[str, str] | None:
    """Return the identity of the plug-in that provides a data set; None for a data set without a plug-in. Raises
    `DataError`.
    """
    if not is_map_style(name) or split_source(name)[0]:
        return None
    return find_data_plugin(name).identity().to_json()


def find_data_plugin(name: str) -> Plugin:
    """Return the plug-in `name`, which may also be `module:function`.

    Raises `DataError`, which suggests a similar name, if there is none.
    """
    try:
        plugins = list_plugins(DATASETS)
        if name in plugins:
            return plugins[name]
        if ":" in name:
            return find_function(name)
    except PluginError as error:
        raise DataError(str(error)) from error
    known = [*DATA_SETS, *plugins]
    forms = ", ".join(FORMS.values())
    raise DataError(
        f"unknown data set {name!r}{did_you_mean(name, known)} (known: {', '.join(known)}, {forms}); correct the "
        "name, or install the package that defines it"
    )


def list_known() -> dict[str, DataSetInfo]:
    """Return the built-in data sets, the sources, and the data sets of installed packages."""
    sources = {FORMS[source]: info for source, info in SOURCE_SETS.items()}
    plugins = {name: _describe_plugin(plugin) for name, plugin in list_plugins(DATASETS).items()}
    return {**DATA_SETS, **sources, **{name: info for name, info in plugins.items() if name not in DATA_SETS}}


def _describe_plugin(plugin: Plugin) -> DataSetInfo:
    return DataSetInfo(0, 0, 0, 0, 0, f"the package {plugin.package}", False)
