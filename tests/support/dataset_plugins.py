"""Packages with a data set, written into a folder as an installer writes them."""

from __future__ import annotations

from pathlib import Path

from support.plugin_packages import install_package

SQUARES = '''
"""Images with a bright square in one of three places."""

import numpy
from eatnas_db.datasets import ImageDataset


class Squares:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = index % 3
        image = numpy.random.default_rng(index).integers(0, 60, (8, 8)).astype(numpy.uint8)
        image[:, 2 * label : 2 * label + 3] += 150
        return image, label


def load(root, part, count=60):
    return ImageDataset(Squares(count if part == "train" else 9), ("left", "middle", "right"), 1, 8)
'''


def install_dataset(site: Path, package: str, source: str = SQUARES, *, name: str | None = None) -> None:
    """Install a package whose function `load` is the data set `name`; by default, this is the name of the package."""
    install_package(site, package, source, entries=f"[eatnas_db.datasets]\n{name or package} = {package}:load\n")
