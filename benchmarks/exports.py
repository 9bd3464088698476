"""Export random networks of every built-in macro in every format, and verify each file as `eatnas-db export` does.

Each network first trains for two epochs on a few images of digits. `--out FILE` receives a JSON line for every network.
If the file exists, the program continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.objective import VALIDATION_ACCURACY
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Proposal, Space
from eatnas_db.errors import EatnasError
from eatnas_protocol.messages import Assign, Checkpointed, Failed, Finished, Report
from eatnas_training import loop
from eatnas_training.export.exporting import ExportRequest, export_model
from eatnas_training.export.formats import SUFFIXES
from eatnas_training.export.model_files import open_model_file
from eatnas_training.worker_protocol import StopRequest

SIDES = {"eatnas-imagenet": 64, "eatnas-cifar": 16, "eatnas-small": 17, "eatnas-tiny": 9}
"""The side of the images for each macro. Some of the sides are odd numbers."""
TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "augment": "none"}


def check_network(folder: Path, macro: str, number: int) -> dict[str, Any]:
    """Train and export the network with this number, and return its result."""
    started = time.perf_counter()
    side = SIDES[macro]
    sampled = Space(PRESETS[macro], Task(side, 1, 10)).sample(KeyedRng(number, "export", macro), lambda _: False)
    assign = _assignment(folder, macro, sampled, number)
    reports = [report for report in loop.train(assign, lambda: StopRequest.NONE) if report is not None]
    line: dict[str, Any] = {"macro": macro, "number": number, "code": str(sampled.architecture)}
    try:
        files = export_model(_request(folder, assign, sampled, reports))
        line["differences"] = {Path(file.file).suffix: file.difference for file in files}
        line["random_input"] = _largest_difference([Path(file.file) for file in files], side)
        line["verified"] = True
    except EatnasError as error:
        line |= {"verified": False, "error": str(error)}
    return {**line, "seconds": round(time.perf_counter() - started, 1)}


def _assignment(folder: Path, macro: str, sampled: Proposal, seed: int) -> Assign:
    side = SIDES[macro]
    return Assign(
        candidate=1,
        attempt=1,
        code=sampled.architecture.to_code(),
        macro=PRESETS[macro].to_json(),
        task={"resolution": side, "channels": 1, "classes": 10},
        data={"name": "digits", "resolution": side, "train_images": 128, "validation_images": 64},
        training=TRAINING,
        seed=seed,
        checkpoint_folder=str(folder),
        log_file=str(folder / "log"),
    )


def _request(folder: Path, assign: Assign, sampled: Proposal, reports: list[Report]) -> ExportRequest:
    finished = reports[-1]
    if isinstance(finished, Failed):
        raise EatnasError(f"the training failed: {finished.message}")
    assert isinstance(finished, Finished)
    saved = [report for report in reports if isinstance(report, Checkpointed)][-1]
    model = {
        "candidate_id": 1,
        "search": "random",
        "is_final": False,
        "code": str(sampled.architecture),
        "architecture_digest": sampled.digest,
        "params": sampled.cost.params,
        "mult_adds": sampled.cost.mult_adds,
        "macro": assign.macro,
        "task": assign.task,
        "data_digest": finished.data_digest,
        "recipe": {**assign.training, "precision": finished.precision},
        "seed": assign.seed,
        "metrics": {VALIDATION_ACCURACY: finished.accuracy},
        "versions": {},
        "device": "cpu",
        "lineage": [],
        "checkpoint_digest": saved.digest,
    }
    targets = {name: str(folder / f"model{suffix}") for name, suffix in SUFFIXES.items()}
    return ExportRequest(model=model, data=assign.data, checkpoint=str(folder / saved.path), targets=targets)


def _largest_difference(files: list[Path], side: int) -> float:
    """Return the largest difference between the logits of the files for random images in batches of 1 and 5."""
    images = torch.randn(5, 1, side, side, generator=torch.Generator().manual_seed(1))
    largest = 0.0
    with torch.inference_mode():
        networks = [open_model_file(file).forward for file in files]
        for count in (1, 5):
            logits = [network(images[:count]) for network in networks]
            largest = max([largest, *(float((one - logits[0]).abs().max()) for one in logits)])
    return largest


def read_results(file: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the results of an earlier run, keyed by macro and number."""
    if file is None or not file.exists():
        return {}
    lines = map(json.loads, file.read_text().splitlines())
    return {(line["macro"], line["number"]): line for line in lines}


def check_all(count: int, out: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the result of each network; take it from the file of an earlier run if the file contains it."""
    results = read_results(out)
    for number in range(1, count + 1):
        for macro in PRESETS:
            if (macro, number) not in results:
                with tempfile.TemporaryDirectory(prefix="eatnas-exports-") as folder:
                    line = check_network(Path(folder), macro, number)
                print(json.dumps(line), flush=True)
                if out:
                    out.parent.mkdir(parents=True, exist_ok=True)
                    with out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                results[macro, number] = line
            yield results[macro, number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=20, help="number of networks for each macro; default: 20")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    results = list(check_all(options.networks, options.out))
    failed = [f"{line['macro']} {line['number']}" for line in results if not line["verified"]]
    largest = max((max(line["differences"].values()) for line in results if line["verified"]), default=0.0)
    print(
        f"{len(results)} networks in {len(SUFFIXES)} formats: {len(failed)} failed {failed or ''}, "
        f"largest difference of a logit {largest:.2g}"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
