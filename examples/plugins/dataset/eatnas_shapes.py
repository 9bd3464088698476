"""A data set of drawn shapes. Triangles are rare, like some classes in most real data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from eatnas_db.datasets import ImageDataset

SHAPES = ("circle", "square", "triangle")
SIDE = 16
LABELS = (0, 1, 0, 1, 0, 1, 0, 1, 0, 2)
"""The labels of ten consecutive items."""
FIRST = {"train": 0, "test": 1_000_000}
"""The first seed of each part, chosen such that no image is in both parts."""


class Shapes:
    """A map-style data set. An item depends only on its index."""

    def __init__(self, count: int, first: int) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        rng = np.random.default_rng(self.first + index)
        label = LABELS[index % len(LABELS)]
        radius = int(rng.integers(4, 7))
        x, y = rng.integers(radius, SIDE - radius, 2).tolist()
        image = Image.fromarray(rng.integers(0, 90, (SIDE, SIDE)).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        if label == 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=200)
        elif label == 1:
            draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=200)
        else:
            draw.polygon(((x, y - radius), (x - radius, y + radius), (x + radius, y + radius)), fill=200)
        return image, label


def load(root: Path, part: str, count: int = 300) -> ImageDataset:
    """Return one part, `train` or `test`. `count` can be set in `data.options`."""
    return ImageDataset(Shapes(count if part == "train" else 100, FIRST[part]), SHAPES, channels=1, resolution=SIDE)
