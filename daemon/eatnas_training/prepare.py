"""`python -m eatnas_training.prepare list|describe|download`: data sets, outside any worker.

`describe` and `download` read a `DataSpec` as JSON on stdin; all print JSON. A mistake is one line, exit 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eatnas_db.errors import DataError
from eatnas_training import datasets


def listed() -> list[dict[str, Any]]:
    """Every known set: name, images, test_images, side, channels, classes, source, needs_download."""
    return [{"name": name, **asdict(known)} for name, known in datasets.KNOWN.items()]


def describe(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a search needs to know of its data. Raises `DataError`."""
    loaded = datasets.load_training(data)
    _, channels, side, _ = loaded.train.images.shape
    return {
        "resolution": side,
        "channels": channels,
        "classes": loaded.train.classes,
        "train_images": len(loaded.train.labels),
        "validation_images": len(loaded.validation.labels),
        "test_images": datasets.known(data["name"]).test_images,
        "data_digest": loaded.digest,
    }


def download(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch the files, read both parts, and describe. Raises `DataError`."""
    name = data["name"]
    if datasets.known(name).needs_download:
        if not data.get("root"):
            raise DataError(f"{name}: give data.root, the folder for its files")
        for train in (True, False):
            datasets.torchvision_set(Path(data["root"]), name, train=train, download=True)
        datasets.load_test(data)
    return describe(data)


def main() -> None:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(prog="eatnas_training.prepare", description=__doc__)
    parser.add_argument("command", choices=["list", "describe", "download"])
    command = parser.parse_args().command
    try:
        if command == "list":
            answer: Any = listed()
        else:
            data = json.load(sys.stdin)
            # torchvision prints its progress on stdout, which is the answer's alone.
            answer_to, sys.stdout = sys.stdout, sys.stderr
            answer = describe(data) if command == "describe" else download(data)
            sys.stdout = answer_to
    except (DataError, OSError, ValueError, KeyError) as error:
        print(f"{error}" if isinstance(error, DataError) else repr(error), file=sys.stderr)
        sys.exit(1)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
