"""Examples with small trainings, for tests of commands rather than of results."""

from __future__ import annotations

import shutil
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALLER = {
    "digits.yaml": {
        "data:\n  name: digits\n": "data:\n  name: digits\n  train_images: 64\n  validation_images: 64\n",
        "epochs: 4": "epochs: 1",
        "population: 8": "population: 4",
        "candidates: 20": "candidates: 7",
        "top: 2": "top: 1",
    },
    "digits-large.yaml": {
        "data:\n  name: digits\n": "data:\n  name: digits\n  train_images: 64\n  validation_images: 64\n",
        "epochs: 3": "epochs: 1",
        "population: 6": "population: 4",
        "candidates: 10": "candidates: 5",
    },
}


def copy_small_examples(folder: Path) -> None:
    """Copy the folder of examples into another folder, and make the searches of the tour small."""
    shutil.copytree(EXAMPLES, folder / "examples")
    for name, changes in SMALLER.items():
        file = folder / "examples" / name
        text = file.read_text()
        for before, after in changes.items():
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        file.write_text(text)
