from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.errors import DataError
from eatnas_protocol.messages import Assign, Finished
from eatnas_training import loop
from eatnas_training.calibrate import calibrate
from eatnas_training.worker_protocol import StopRequest

SMALL: list[list[int | float]] = [[1, 0, 0, 0, 0.5]] * 7
LARGE: list[list[int | float]] = [[2, 2, 1, 2, 1.0]] * 7


def question(*codes: list[list[int | float]], **changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "codes": list(codes),
        "macro": asdict(PRESETS["eatnas-tiny"]),
        "task": asdict(Task(8, 1, 10)),
        "data": {"name": "digits"},
        "training": {"batch_size": 32, "augment": "shift"},
    }
    return {**asked, **changes}


def test_a_costlier_network_takes_longer() -> None:
    small, large = calibrate(question(SMALL, LARGE))
    assert 0 < small["seconds_per_epoch"] < large["seconds_per_epoch"]
    assert min(small["first_seconds"], large["first_seconds"]) > 0


@pytest.mark.slow
def test_what_is_estimated_is_near_what_an_epoch_takes(tmp_path: Path) -> None:
    asked = question(LARGE)
    estimated = calibrate(asked)[0]["seconds_per_epoch"]
    settings = {key: asked[key] for key in ("macro", "task", "data")}
    training = {**asked["training"], "epochs": 1}
    assign = Assign(*(1, 1, LARGE), **settings, training=training, seed=0, checkpoint_folder=str(tmp_path), log_file="")
    last = list(loop.train(assign, lambda: StopRequest.NONE))[-1]
    assert isinstance(last, Finished)
    # Far apart, since others may use the machine meanwhile: but this finds another unit, or another count of batches.
    assert estimated / 10 < last.device_seconds < estimated * 10


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "digits", "train_images": 10, "validation_images": 3}},
        {"data": {"name": "digits", "train_images": 60, "validation_images": 150}},
        {"training": {"learning_rate": 100.0, "warmup": 0.0, "weight_decay": 1.0, "batch_size": 4}},
    ],
    ids=["less than a batch", "less than two batches", "a rate at which it diverges"],
)
def test_every_search_that_can_be_created_can_be_timed(changes: dict[str, Any]) -> None:
    (timed,) = calibrate(question(SMALL, **changes))
    assert timed["seconds_per_epoch"] > 0


def test_streamed_images_count_with_their_decoding(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(60):
            PIL.Image.fromarray(noise).save(tmp_path / "train" / label / f"{number}.jpeg")
    started = time.perf_counter()
    for _ in range(10):
        PIL.Image.open(tmp_path / "train" / "a" / "0.jpeg").convert("RGB")
    decoding = (time.perf_counter() - started) / 10
    data = {"name": "ImageNet", "root": str(tmp_path), "resolution": 8, "train_images": 100, "validation_images": 20}
    asked = question(SMALL, data=data, task=asdict(Task(8, 3, 2)), training={"batch_size": 5})
    (timed,) = calibrate(asked)
    # By half of two cores at most, if nobody else has them.
    assert timed["seconds_per_epoch"] > 120 * decoding / 8 / 3


def test_timing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    calibrate(question(SMALL))
    assert torch.equal(before, torch.get_rng_state())


def test_data_that_are_not_those_of_the_task_are_refused() -> None:
    with pytest.raises(DataError, match="the search was created for"):
        calibrate(question(SMALL, task=asdict(Task(28, 1, 10))))


def ask(asked: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eatnas_training.calibrate"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_answers_a_question_in_json_with_json() -> None:
    answer = ask(question(SMALL))
    (timed,) = json.loads(answer.stdout)
    assert set(timed) == {"seconds_per_epoch", "first_seconds"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (question(SMALL, data={"name": "digit"}), "did you mean digits"),
        (question([[9, 0, 0, 0, 0.5]] * 7), "block 1"),
        ({}, "codes"),
    ],
)
def test_the_command_says_a_mistake_in_one_line(asked: object, says: str) -> None:
    answer = ask(asked)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert says in answer.stderr
