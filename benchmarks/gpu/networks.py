"""Make networks, images and trainings for the measurements, without any files."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_protocol.messages import Assign
from eatnas_training import network
from eatnas_training.data.batches import LoadedData
from eatnas_training.data.resident import ResidentPart
from eatnas_training.steps import StepRunner

TASKS = {"eatnas-tiny": Task(8, 1, 10), "eatnas-small": Task(28, 1, 10), "eatnas-cifar": Task(32, 3, 10)}
CODES = {
    "small": "mb3_k3_d2_w0.5/sep_k7_d2_w1.0_skip/mb3_k3_d2_w0.5/sep_k3_d1_w1.0/mb3_k3_d1_w0.5/"
    "sep_k7_d2_w0.5_skip/mb6_k3_d2_w0.5",
    "median": "mb6_k5_d2_w1.0_skip/mb3_k3_d3_w1.5/mb6_k7_d2_w1.0_skip/sep_k5_d3_w1.0_skip/mb3_k5_d3_w1.0_skip/"
    "mb6_k3_d2_w1.5/mb3_k5_d2_w1.0_skip",
    "large": "mb6_k5_d4_w1.5_skip/mb6_k7_d3_w1.5_skip/mb6_k3_d4_w1.5_skip/mb6_k7_d3_w1.0_skip/mb6_k5_d4_w1.5_skip/"
    "mb6_k7_d3_w1.5_skip/mb6_k3_d3_w1.5_skip",
}
IMAGES = 20_000


def spaces_of(*, gpu: bool) -> tuple[str, ...]:
    """Return the spaces to measure."""
    return ("eatnas-small", "eatnas-cifar") if gpu else ("eatnas-tiny",)


def random_codes(space: str, count: int, seed: int) -> Iterator[str]:
    """Yield codes of random networks of a space."""
    draws = random.Random(seed)
    macro = PRESETS[space]
    sizes = len(macro.strides)
    for _ in range(count):
        blocks = [
            [
                draws.randrange(3),
                draws.randrange(3),
                draws.randrange(2),
                draws.randrange(4),
                draws.choice([0.5, 1, 1.5, 2]),
            ]
            for _ in range(sizes)
        ]
        yield str(Architecture.from_code(blocks))


def make_images(space: str, device: str, count: int = IMAGES) -> ResidentPart:
    """Return random images with labels on a device."""
    task, draws = TASKS[space], torch.Generator().manual_seed(0)
    shape = (count, task.channels, task.resolution, task.resolution)
    images = torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)
    labels = torch.randint(0, task.classes, (count,), generator=draws)
    mean, scale = torch.full((1, task.channels, 1, 1), 128.0), torch.full((1, task.channels, 1, 1), 1 / 64)
    return ResidentPart(*(tensor.to(device) for tensor in (images, labels, mean, scale)))


def make_model(code: str, space: str, device: str, *, seed: int = 0) -> nn.Module:
    """Return a channels-last network on a device, with the initial weights of a seed."""
    macro = PRESETS[space]
    model = network.build(Architecture.parse(code), macro, TASKS[space])
    network.initialize(model, seed)
    return model.to(device).to(memory_format=torch.channels_last)


def make_runner(
    code: str, space: str, device: str, images: ResidentPart, *, tables: bool | None = None, **training: Any
) -> StepRunner:
    """Return the `StepRunner` of the product for a network and these images. See `StepRunner` for `tables`."""
    macro, task = PRESETS[space], TASKS[space]
    assign = Assign(
        candidate=1,
        attempt=1,
        code=Architecture.parse(code).to_code(),
        macro=asdict(macro),
        task=asdict(task),
        data={"name": "digits"},
        training={"epochs": 1000, "learning_rate": 0.01, **training},
        seed=7,
        checkpoint_folder=os.devnull,
        log_file=os.devnull,
    )
    runner = StepRunner(assign, device, tables=tables)
    runner.data = LoadedData(images, images, task, "images of a benchmark", DataState("none"))
    runner.batches = len(images.labels) // runner.recipe.batch_size
    runner.build()
    return runner


def next_step(runner: StepRunner) -> None:
    """Train the next batch. After the last batch of an epoch, the next epoch begins."""
    if runner.state.batch >= runner.batches:
        runner.state.begin_epoch()
    runner.train_step()


def state_of(model: nn.Module) -> list[torch.Tensor]:
    """Return a copy of all weights and statistics."""
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def have_same_bits(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Return whether two networks have the same values. A NaN equals nothing, not even another NaN."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
