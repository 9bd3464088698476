"""Trainings outside any search: the recipe and the images of a spec, one network after another, two at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Task
from eatnas_db.domain.recipe import recipe_of
from eatnas_db.domain.spec import SearchSpec, parse_spec
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished


def parsed(spec: dict[str, Any], data_root: str) -> SearchSpec:
    return parse_spec({**spec, "name": "evidence", "data": {**spec["data"], "root": data_root}})


def task_of(spec: SearchSpec) -> Task:
    return Task(spec.data.resolution or 28, 1, 10)


def assignment(spec: SearchSpec, number: int, code: str, seed: int, folder: Path, **training: Any) -> Assign:
    """`training` replaces fields of the recipe."""
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


def trained(assign: Assign) -> dict[str, Any]:
    """Train to the end, in this process: accuracy, seconds in steps, share inherited. Raises where it fails."""
    from eatnas_training.loop import train
    from eatnas_training.worker_protocol import StopRequest

    for report in train(assign, lambda: StopRequest.NONE):
        if isinstance(report, Failed):
            raise RuntimeError(report.message)
        if isinstance(report, EpochDone):
            last = report
        if isinstance(report, Finished):
            return {
                "val_accuracy": last.val_accuracy,
                "device_seconds": report.device_seconds,
                "share_inherited": report.share_inherited,
                "logit_distance": report.logit_distance,
            }
    raise RuntimeError("the training ended without a score")


class Kept:
    """Results by name in a file of JSON lines: what is there is not done again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.results: dict[str, Any] = dict(json.loads(line) for line in lines)

    def keep(self, name: str, result: Any) -> None:
        self.results[name] = result
        with self.file.open("a") as sink:
            sink.write(json.dumps([name, result]) + "\n")


def pool(slots: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(slots, mp_context=get_context("spawn"))


def train_all(asked: Iterable[tuple[str, Assign]], kept: Kept, slots: int) -> dict[str, Any]:
    """Every assignment's result by its name, in the order they finish; kept as they come."""
    with pool(slots) as workers:
        todo = {workers.submit(trained, assign): name for name, assign in asked if name not in kept.results}
        for done in as_completed(todo):
            kept.keep(todo[done], done.result())
            print(f"{todo[done]}: {done.result()['val_accuracy']:.4f}", flush=True)
    return kept.results
