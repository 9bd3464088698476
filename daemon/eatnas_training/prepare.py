"""`python -m eatnas_training.prepare list|describe|final|download`: list, describe and download data sets.

`describe`, `final` and `download` read a `DataSpec` as JSON from stdin. Every command prints JSON. An error is one line
on stderr, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from eatnas_db.errors import DataError, describe_os_error
from eatnas_training.data import datasets
from eatnas_training.data.catalog import DATA_SETS, get_data_set
from eatnas_training.data.download import SOURCES, Source, download_missing
from eatnas_training.data.streamed_files import list_streamed_files


def list_data_sets() -> list[dict[str, Any]]:
    """Return a row for each data set: its name and the fields of `DataSetInfo`."""
    return [{"name": name, **asdict(info)} for name, info in DATA_SETS.items()]


def describe(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape of the images, the size of each part and the digest. Raises `DataError`."""
    files = list_streamed_files(data)
    if files is not None:
        train, validation, digest = files.train.labels, files.held_out.labels, files.digest
        channels, side, classes = 3, files.side, files.classes
    else:
        loaded = datasets.load_training(data)
        train, validation, digest = loaded.train.labels, loaded.validation.labels, loaded.digest
        _, channels, side, _ = loaded.train.images.shape
        classes = loaded.train.classes
    return {
        "resolution": side,
        "channels": channels,
        "classes": classes,
        "train_images": len(train),
        "validation_images": len(validation),
        "test_images": get_data_set(data["name"]).test_images,
        "data_digest": digest,
    }


def describe_final(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of images that final models are trained and tested on.

    Raises `DataError`, also if there is no test part.
    """
    files = list_streamed_files(data, final_model=True)
    if files is not None:
        return {"train_images": len(files.train.labels), "test_images": len(files.held_out.labels)}
    loaded = datasets.load_final(data)
    return {"train_images": len(loaded.train.labels), "test_images": len(loaded.test.labels)}


def download(data: Mapping[str, Any], sources: Mapping[str, Source] = SOURCES) -> dict[str, Any]:
    """Download missing or damaged files, read both parts, and describe the data set. Raises `DataError`."""
    name = str(data["name"])
    if get_data_set(name).needs_download:
        root = datasets.data_root(data)
        try:
            download_missing(root, name, sources[name])
        except OSError as error:
            raise DataError(f"{name}: {error.filename or root} cannot be written: {error.strerror}") from error
        datasets.load_test(data)
    return describe(data)


COMMANDS: Final[dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "describe": describe,
    "final": describe_final,
    "download": download,
}


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="eatnas_training.prepare", description=__doc__)
    parser.add_argument("command", choices=["list", *COMMANDS])
    command = parser.parse_args().command
    try:
        answer = list_data_sets() if command == "list" else COMMANDS[command](json.load(sys.stdin))
    except DataError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(describe_os_error(error))
    except (ValueError, KeyError) as error:
        sys.exit(repr(error))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
