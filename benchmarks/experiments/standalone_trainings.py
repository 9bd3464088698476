"""Train networks outside any search, with the recipe and the images of a spec, in several processes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypedDict

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Task
from eatnas_db.domain.recipe import recipe_of
from eatnas_db.domain.spec import SearchSpec, parse_spec
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished


class TrainingResult(TypedDict):
    """The result of one training, as stored in the file of results."""

    val_accuracy: float
    device_seconds: float
    share_inherited: float | None
    logit_distance: float | None


def parse_arm_spec(spec: dict[str, Any], data_root: str) -> SearchSpec:
    return parse_spec({**spec, "name": "experiment", "data": {**spec["data"], "root": data_root}})


def task_of(spec: SearchSpec) -> Task:
    """Return the task of Fashion-MNIST at the resolution of a spec."""
    return Task(spec.data.resolution or 28, 1, 10)


def new_assignment(spec: SearchSpec, number: int, code: str, seed: int, folder: Path, **training: Any) -> Assign:
    """Return the assignment of a network. `training` replaces fields of the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {**recipe_of(spec.model_dump(mode="json"), inheriting=False), **training}
    return Assign(
        candidate=number,
        attempt=1,
        code=Architecture.parse(code).to_code(),
        macro=spec.macro().to_json(),
        task=asdict(task_of(spec)),
        data=spec.data.model_dump(mode="json"),
        training=recipe,
        seed=seed,
        checkpoint_folder=str(folder),
        log_file="",
    )


def train(assign: Assign) -> TrainingResult:
    """Train a network in this process. Raises `RuntimeError` if the training fails."""
    from eatnas_training import loop
    from eatnas_training.worker_protocol import StopRequest

    accuracy: float | None = None
    for report in loop.train(assign, lambda: StopRequest.NONE):
        if isinstance(report, Failed):
            raise RuntimeError(report.message)
        if isinstance(report, EpochDone):
            accuracy = report.val_accuracy
        if isinstance(report, Finished) and accuracy is not None:
            return TrainingResult(
                val_accuracy=accuracy,
                device_seconds=report.device_seconds,
                share_inherited=report.share_inherited,
                logit_distance=report.logit_distance,
            )
    raise RuntimeError("the training ended without a score")


class ResultsByName:
    """The results of trainings in a file of JSON lines. A training whose result is in the file is not repeated."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.results: dict[str, TrainingResult] = dict(json.loads(line) for line in lines)

    def add(self, name: str, result: TrainingResult) -> None:
        self.results[name] = result
        with self._file.open("a") as target:
            target.write(json.dumps([name, result]) + "\n")


def new_pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))


def train_all(assignments: Iterable[tuple[str, Assign]], results: ResultsByName, processes: int) -> None:
    """Train the networks that have no result yet, and store each result when its training ends."""
    with new_pool(processes) as pool:
        futures = {pool.submit(train, assign): name for name, assign in assignments if name not in results.results}
        for future in as_completed(futures):
            results.add(futures[future], future.result())
            print(f"{futures[future]}: {future.result()['val_accuracy']:.4f}", flush=True)
