from __future__ import annotations

import json
import subprocess
import sys
import timeit
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.errors import DataError
from eatnas_protocol.messages import Assign
from eatnas_training.calibrate import calibrate, seconds_of_round
from support.trainings import finished, run_training

SMALL: list[list[int | float]] = [[1, 0, 0, 0, 0.5]] * 7
LARGE: list[list[int | float]] = [[2, 2, 1, 2, 1.0]] * 7


def calibration_request(*codes: list[list[int | float]], **changes: Any) -> dict[str, Any]:
    request: dict[str, Any] = {
        "codes": list(codes),
        "macro": asdict(PRESETS["eatnas-tiny"]),
        "task": asdict(Task(8, 1, 10)),
        "data": {"name": "digits"},
        "training": {"batch_size": 32, "augment": "shift"},
    }
    return {**request, **changes}


def test_larger_network_takes_longer() -> None:
    small, large = calibrate(calibration_request(SMALL, LARGE))
    assert 0 < small["seconds_per_epoch"] < large["seconds_per_epoch"]
    assert small["images_per_second"] > large["images_per_second"] > 0
    assert min(small["setup_seconds"], large["setup_seconds"]) > 0


@pytest.mark.parametrize(("least_seconds", "rounds"), [(0.0, 1), (1.0, 4)])
def test_rounds_are_repeated_until_they_take_long_enough(least_seconds: float, rounds: int) -> None:
    calls: list[None] = []
    seconds = seconds_of_round(lambda: calls.append(None), least_seconds, lambda: 0.25 * len(calls))
    assert (len(calls), seconds) == (rounds, 0.25)


@pytest.mark.slow
def test_estimate_is_close_to_a_real_epoch(tmp_path: Path) -> None:
    request = calibration_request(LARGE)
    estimated = calibrate(request)[0]["seconds_per_epoch"]
    assign = Assign(
        candidate=1,
        attempt=1,
        code=LARGE,
        macro=request["macro"],
        task=request["task"],
        data=request["data"],
        training={**request["training"], "epochs": 1},
        seed=0,
        checkpoint_folder=str(tmp_path),
        log_file="",
    )
    seconds = finished(run_training(assign)).device_seconds
    # The bounds are wide, because other processes may use the machine. The bounds still catch a wrong unit or a wrong
    # number of batches.
    assert estimated / 10 < seconds < estimated * 10


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "digits", "train_images": 10, "validation_images": 3}},
        {"data": {"name": "digits", "train_images": 60, "validation_images": 150}},
        {"training": {"learning_rate": 100.0, "warmup": 0.0, "weight_decay": 1.0, "batch_size": 4}},
    ],
    ids=["less than a batch", "less than two batches", "diverging learning rate"],
)
def test_smallest_data_and_diverging_recipes_can_be_timed(changes: dict[str, Any]) -> None:
    (timed,) = calibrate(calibration_request(SMALL, **changes))
    assert timed["seconds_per_epoch"] > 0


def test_estimate_includes_the_decoding_of_streamed_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(60):
            PIL.Image.fromarray(noise).save(tmp_path / "train" / label / f"{number}.jpeg")
    file = tmp_path / "train" / "a" / "0.jpeg"
    # Take the fastest of ten runs, because other programs delay some of them.
    decode_seconds = min(timeit.repeat(lambda: PIL.Image.open(file).convert("RGB"), repeat=10, number=1))
    data = {"name": "ImageNet", "root": str(tmp_path), "resolution": 8, "train_images": 100, "validation_images": 20}
    request = calibration_request(SMALL, data=data, task=asdict(Task(8, 3, 2)), training={"batch_size": 5})
    (timed,) = calibrate(request)
    # At most 8 threads decode.
    assert timed["seconds_per_epoch"] > 120 * decode_seconds / 8 / 3


def test_calibration_leaves_the_global_generator_unchanged() -> None:
    before = torch.get_rng_state()
    calibrate(calibration_request(SMALL))
    assert torch.equal(before, torch.get_rng_state())


def test_data_of_another_task_are_refused() -> None:
    with pytest.raises(DataError, match="the search was created for"):
        calibrate(calibration_request(SMALL, task=asdict(Task(28, 1, 10))))


def run_program(request: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eatnas_training.calibrate"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_program_answers_json_with_json() -> None:
    answer = run_program(calibration_request(SMALL))
    (timed,) = json.loads(answer.stdout)
    assert set(timed) == {"images_per_second", "seconds_per_epoch", "setup_seconds"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_json", "message"),
    [
        (calibration_request(SMALL, data={"name": "digit"}), "did you mean digits"),
        (calibration_request([[9, 0, 0, 0, 0.5]] * 7), "block 1"),
        ({}, "codes"),
    ],
)
def test_program_reports_an_error_in_one_line(request_json: object, message: str) -> None:
    answer = run_program(request_json)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert message in answer.stderr
