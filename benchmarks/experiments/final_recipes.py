"""Compare recipes of final models on Fashion-MNIST: all recipes on validation images, then two recipes on test images.

    python benchmarks/experiments/final_recipes.py choose    # validation images only; writes final-recipes-choice.csv
    python benchmarks/experiments/final_recipes.py test      # the search's recipe and `CHOSEN`, each seed tested once

The network is the winner of the re-evaluated small search in `transfer-1.csv`. It trains at 14x14 pixels. `test` trains
it on the 7,000 images that `search final` would use. `choose` trains it on 7,000 images that are not among its 5,000
validation images. Finished trainings are not repeated, so the program can be interrupted and started again; an
interrupted training resumes.
"""

from __future__ import annotations

import argparse
import csv
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from arm_specs import SMALL
from standalone_trainings import new_assignment, parse_arm_spec

from eatnas_db.domain.recipe import FINAL_EPOCHS_FACTOR
from eatnas_protocol.messages import Failed, Finished
from eatnas_training import loop
from eatnas_training.data.dataset_files import read_idx_set
from eatnas_training.data.datasets import split
from eatnas_training.worker_protocol import StopRequest

WINNER: Final = (
    "mb6_k5_d1_w1.0/mb3_k3_d1_w0.5_skip/mb3_k7_d2_w2.0_skip/mb6_k5_d2_w0.5_skip/mb3_k5_d2_w0.5_skip/"
    "mb6_k5_d2_w1.5_skip/sep_k3_d3_w1.5_skip"
)
CHOICE_IMAGES: Final = SMALL["data"]["train_images"] + SMALL["data"]["validation_images"]
EPOCHS: Final = FINAL_EPOCHS_FACTOR * SMALL["training"]["epochs"]
ADAMW: Final = {
    "optimizer": "adamw",
    "learning_rate": 0.005,
    "weight_decay": 0.05,
    "clip_norm": 5.0,
    "ema_decay": 0.99,
}
BATCH_32: Final = {"batch_size": 32, "ema_decay": 0.99, "weight_decay": 5e-4}
LARGER: Final = {"ema_decay": 0.99, "end_resolution": 28, "end_epochs": 3}
FULL_SIZE: Final = {"end_resolution": 28, "end_epochs": EPOCHS - 1}
CHOSEN: Final = "strong, rate 0.1, 28 pixels from epoch 2"
CHOICES: Final[dict[str, dict[str, Any]]] = {
    "search": {},
    "crop_flip, average": {"augment": "crop_flip", "ema_decay": 0.99},
    "adamw, batch 32": {**ADAMW, "batch_size": 32},
    "average, larger images": LARGER,
    "batch 32, average, decay 5e-4": BATCH_32,
    "average, decay 5e-4, shift": {"ema_decay": 0.99, "weight_decay": 5e-4, "augment": "shift"},
    "average, decay 5e-4, mixup": {"ema_decay": 0.99, "weight_decay": 5e-4, "mixup": 0.2},
    "average, decay 5e-4, erasing": {"ema_decay": 0.99, "weight_decay": 5e-4, "random_erasing": 0.25},
    "average, decay 2e-3": {"ema_decay": 0.99, "weight_decay": 2e-3},
    # Fashion-MNIST centers its objects, so a shift cuts off pixels, but a flip does not.
    "flip": {"augment": "flip"},
    "flip, batch 32": {"augment": "flip", **BATCH_32},
    "flip, batch 32, rate 0.1": {"augment": "flip", **BATCH_32, "learning_rate": 0.1},
    "flip, batch 32, no smoothing": {"augment": "flip", **BATCH_32, "label_smoothing": 0.0},
    "average, 28 pixels from epoch 2": {"ema_decay": 0.99, **FULL_SIZE},
    CHOSEN: {**BATCH_32, "learning_rate": 0.1, **FULL_SIZE},
}
COLUMNS: Final = ("recipe", "seed", "epochs", "accuracy", "loss", "device_seconds")


def train(
    name: str, number: int, seed: int, options: argparse.Namespace, *, test: bool, **recipe: Any
) -> tuple[Any, ...]:
    """Train one network and return its row of the table."""
    spec = parse_arm_spec(SMALL, options.data_root if test else str(_validation_as_test(options)))
    folder = options.work / ("test" if test else "choose")
    assign = new_assignment(spec, number, WINNER, seed, folder, epochs=EPOCHS, **recipe)
    for report in loop.train(replace(assign, final_model=True), lambda: StopRequest.NONE):
        if isinstance(report, Failed):
            raise RuntimeError(f"{name}: {report.message}")
        if isinstance(report, Finished):
            return name, seed, EPOCHS, round(report.accuracy, 4), round(report.loss, 4), round(report.device_seconds, 1)
    raise AssertionError("the training ended without a final report")


def _validation_as_test(options: argparse.Namespace) -> Path:
    """Write a data set that has the validation images as test images and 7,000 others to train. Return its folder."""
    folder: Path = options.work / "choose-data"
    folder.mkdir(parents=True, exist_ok=True)
    images = read_idx_set(Path(options.data_root), "FashionMNIST", 10, train=True)
    train, validation = split(len(images.labels), {**SMALL["data"], "train_images": CHOICE_IMAGES})
    for part, indices in (("train", train), ("t10k", validation)):
        pixels, labels = images.images[indices, 0], images.labels[indices].astype("uint8")
        for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / name).write_bytes(head + array.tobytes())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["choose", "test"])
    parser.add_argument("--data-root", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument(
        "--work", type=Path, default=Path("final-recipes"), help="folder of the checkpoints; default: final-recipes"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    test = options.step == "test"
    recipes = {name: CHOICES[name] for name in ("search", CHOSEN)} if test else CHOICES
    file = options.out / ("final-recipes.csv" if test else "final-recipes-choice.csv")
    lines = file.read_text().splitlines() if file.exists() else []
    done = {(row["recipe"], int(row["seed"])) for row in csv.DictReader(lines)}
    with file.open("a", newline="") as target:
        writer = csv.writer(target)
        if not lines:
            writer.writerow(COLUMNS)
        for seed in options.seeds if test else [101]:
            for number, (name, recipe) in enumerate(recipes.items(), 1):
                if (name, seed) in done:
                    continue
                row = train(name, 1000 * seed + number, seed, options, test=test, **recipe)
                writer.writerow(row)
                target.flush()
                print(*row, flush=True)


if __name__ == "__main__":
    main()
