"""Read map-style data sets: from plug-ins, from torchvision and from Parquet folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from eatnas_db.datasets import ImageDataset
from eatnas_db.domain.data_source import TORCHVISION, split_source
from eatnas_db.errors import DataError, PluginError
from eatnas_training.data.arrays import Images
from eatnas_training.data.catalog import find_data_plugin
from eatnas_training.data.description_checks import check_description
from eatnas_training.data.file_sets import data_root
from eatnas_training.data.folder_content import Steps
from eatnas_training.data.item_reading import read_items
from eatnas_training.data.parquet_folder import open_parquet
from eatnas_training.data.random_states import refuse_global_draws
from eatnas_training.data.torchvision_sets import open_torchvision
from eatnas_training.error_messages import describe_exception

TRAIN: Final = "train"
TEST: Final = "test"
"""The names of the parts that the function of a plug-in receives."""


def read_map_style(data: Mapping[str, Any], *, train: bool) -> Steps[Images]:
    """Read one part of a `DataSpec` into memory. Raises `DataError`."""
    part = open_map_style(data, train=train)
    if part is None:
        raise DataError(f"{data['name']} has no test part; a search does not need it, but final models do")
    return (yield from read_items(part, data, train=train))


def open_map_style(data: Mapping[str, Any], *, train: bool, download: bool = False) -> ImageDataset | None:
    """Open one part of a `DataSpec`; return None if there is no test part.

    With `download`, let torchvision download missing files. Raises `DataError` for any exception of the data set's
    code.
    """
    name = str(data["name"])
    source, rest = split_source(name)
    root, options = data_root(data), dict(data.get("options") or {})
    # The check for random draws must not cover the import of the plug-in, which happens only once in each process and
    # may draw.
    load = None if source else _load_plugin(name)
    with refuse_global_draws(name):
        try:
            if source == TORCHVISION:
                return open_torchvision(rest, root, options, train=train, download=download)
            if load is None:
                return open_parquet(rest, root, options, train=train)
            return _check_part(name, load(root, TRAIN if train else TEST, **options), train=train)
        except (DataError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # code of another package may raise any exception
            advice = f"; run: eatnas-db data prepare {name} --root {root}" if source == TORCHVISION else ""
            raise DataError(f"{name} cannot be opened in {root}: {describe_exception(error)}{advice}") from error


def _load_plugin(name: str) -> Callable[..., Any]:
    plugin = find_data_plugin(name)
    try:
        function = plugin.load()
    except PluginError as error:
        raise DataError(str(error)) from error
    if not callable(function):
        raise DataError(f"{plugin} is {type(function).__name__}, not a function; correct the plug-in's entry point")
    return cast("Callable[..., Any]", function)


def _check_part(name: str, part: object, *, train: bool) -> ImageDataset | None:
    if isinstance(part, ImageDataset):
        check_description(name, part)
        return part
    if part is None and not train:
        return None
    raise DataError(
        f"{name} returned {type(part).__name__} for its {TRAIN if train else TEST} part; its function must return an "
        "eatnas_db.datasets.ImageDataset, or None if there is no test part"
    )
