"""Open torchvision's data sets for image classification by the names of their Python classes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Final

from eatnas_db.datasets import ImageDataset
from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import DataError

SPLITS: Final = {True: ("train", "trainval", "train-standard"), False: ("test", "val", "valid")}
"""The values of torchvision's argument `split` that are tried for the training and the test part, in order."""
CHANNELS: Final = "channels"
"""The only option that is not passed to the class of torchvision. The value 3 converts grey images to RGB."""


def open_torchvision(
    name: str, root: Path, options: dict[str, Any], *, train: bool, download: bool
) -> ImageDataset | None:
    """Open one part of a data set of torchvision; return None if the data set has no test part.

    `options` has additional arguments for the class, and may have `channels`. Raises `DataError`, or any exception that
    the class raises.
    """
    cls = _find_class(name)
    channels = options.pop(CHANNELS, None)
    known = _list_parameters(cls)
    if unknown := sorted(set(options) - set(known)):
        raise DataError(
            f"torchvision:{name} has no option {unknown[0]!r}{did_you_mean(unknown[0], known)} "
            f"(known: {', '.join(known)})"
        )
    arguments = {"root": root, **options}
    if "download" in known:
        arguments["download"] = download
    if "train" in known:
        dataset = cls(**arguments, train=train)
    elif "split" in known and "split" not in options:
        dataset = _open_split(cls, arguments, SPLITS[train])
    elif train:
        dataset = cls(**arguments)
    else:
        return None
    return None if dataset is None else ImageDataset(dataset, _class_names(dataset), channels)


def _find_class(name: str) -> Any:
    from torchvision import datasets  # slow to load, and other data sets do not need torchvision

    classes = {known: found for known in datasets.__all__ if inspect.isclass(found := getattr(datasets, known))}
    if name not in classes:
        raise DataError(
            f"torchvision has no data set {name!r}{did_you_mean(name, classes)}; its data sets are the "
            "classes of torchvision.datasets"
        )
    return classes[name]


def _list_parameters(cls: type) -> list[str]:
    """Return the arguments of a class, including arguments that it passes to its base classes by `**kwargs`."""
    names: list[str] = []
    for parent in cls.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
        names += [one.name for one in parameters if one.kind is not one.VAR_KEYWORD and one.name not in names]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return [name for name in names if name not in ("self", "root")]


def _open_split(cls: Any, arguments: dict[str, Any], splits: tuple[str, ...]) -> Any:
    """Open the first of these splits that the class knows. Return None if the class knows none of them."""
    refused: ValueError | None = None
    for split in splits:
        try:
            return cls(**arguments, split=split)
        except ValueError as error:
            if repr(split) not in str(error):  # the name of the split is not the cause of the error
                raise
            refused = error
    if splits == SPLITS[True] and refused is not None:
        raise refused
    return None


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    for attribute in ("classes", "categories"):
        names = getattr(dataset, attribute, None)
        if isinstance(names, list | tuple) and names:
            return tuple(", ".join(map(str, name)) if isinstance(name, list | tuple) else str(name) for name in names)
    return None
