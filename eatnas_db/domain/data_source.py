"""The sources of data sets. The name of a data set can begin with a source, as in `torchvision:EuroSAT`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

TORCHVISION: Final = "torchvision"
HUGGING_FACE: Final = "hf"
CSV: Final = "csv"
SOURCES: Final = (TORCHVISION, HUGGING_FACE, CSV)
_WITH_PATH: Final = (HUGGING_FACE, CSV)


def split_source(name: str) -> tuple[str, str]:
    """Return the source and the rest of a data set's name.

    The source is empty if the name does not begin with a source.
    """
    source, colon, rest = name.partition(":")
    return (source, rest) if colon and source in SOURCES else ("", name)


def names_a_path(name: str) -> bool:
    """Return whether the name of a data set contains the path of the data set's files."""
    return split_source(name)[0] in _WITH_PATH


def with_absolute_path(name: str, folder: Path) -> str:
    """Return the name of a data set with an absolute path; resolve a relative path against `folder`."""
    source, rest = split_source(name)
    if source not in _WITH_PATH or not rest:
        return name
    return f"{source}:{(folder / os.path.expanduser(rest)).absolute()}"  # noqa: PTH111 - `Path` raises without a home
