"""Compare recipes of final models on Fashion-MNIST: choose among them by validation images, then test two of them.

    python benchmarks/experiments/final_recipes.py choose    # validation images only; writes final-recipes-choice.csv
    python benchmarks/experiments/final_recipes.py test      # the search's recipe and `strong`, each seed tested once

The network is the winner of the small search of `transfer-1.csv`, by its re-evaluation. It trains at 14x14 pixels on
the 7,000 images that `search final` would take. `choose` trains on 7,000 images that are not among its 5,000 validation
images. Finished trainings are not repeated, so the program can be interrupted and started again; an interrupted
training resumes.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from arm_specs import SMALL, merge
from standalone_trainings import new_assignment, parse_arm_spec

from eatnas_db.domain.recipe import FINAL_EPOCHS_FACTOR
from eatnas_protocol.messages import Failed, Finished
from eatnas_training import loop
from eatnas_training.worker_protocol import StopRequest

WINNER: Final = (
    "mb6_k5_d1_w1.0/mb3_k3_d1_w0.5_skip/mb3_k7_d2_w2.0_skip/mb6_k5_d2_w0.5_skip/mb3_k5_d2_w0.5_skip/"
    "mb6_k5_d2_w1.5_skip/sep_k3_d3_w1.5_skip"
)
EPOCHS: Final = FINAL_EPOCHS_FACTOR * SMALL["training"]["epochs"]
ADAMW: Final = {
    "optimizer": "adamw",
    "learning_rate": 0.005,
    "weight_decay": 0.05,
    "clip_norm": 5.0,
    "ema_decay": 0.99,
}
CHOICES: Final[dict[str, dict[str, Any]]] = {
    "search": {},
    "crop_flip, average": {"augment": "crop_flip", "ema_decay": 0.99},
    "adamw, batch 32": {**ADAMW, "batch_size": 32},
    "adamw, batch 32, shift": {**ADAMW, "batch_size": 32, "augment": "shift"},
    "adamw": ADAMW,
    "adamw, batch 32, cutmix": {**ADAMW, "batch_size": 32, "cutmix": 1.0},
}
COLUMNS: Final = ("recipe", "seed", "epochs", "accuracy", "loss", "device_seconds")


def train(
    name: str, number: int, seed: int, options: argparse.Namespace, *, test: bool, **recipe: Any
) -> tuple[Any, ...]:
    """Train one network and return its row of the table."""
    changes = {} if test else {"data": {"train_images": 7000}}
    spec = parse_arm_spec(merge(SMALL, changes), options.data_root)
    folder = options.work / ("test" if test else "choose")
    assign = new_assignment(spec, number, WINNER, seed, folder, epochs=EPOCHS, **recipe)
    for report in loop.train(replace(assign, final_model=test), lambda: StopRequest.NONE):
        if isinstance(report, Failed):
            raise RuntimeError(f"{name}: {report.message}")
        if isinstance(report, Finished):
            return name, seed, EPOCHS, round(report.accuracy, 4), round(report.loss, 4), round(report.device_seconds, 1)
    raise AssertionError("a training ends with a report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["choose", "test"])
    parser.add_argument("--data-root", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--work", type=Path, default=Path("final-recipes"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    test = options.step == "test"
    if test:
        from eatnas_db.domain.spec_final import PRESETS

        recipes = {"search": {}, "strong": PRESETS["strong"]}
    else:
        recipes = CHOICES
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
