"""Steps with random draws from tables on the device have the same bits as steps with draws from the host."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_protocol.messages import Assign
from eatnas_training import checkpoint, step_tables
from eatnas_training.data.resident import ResidentPart
from eatnas_training.steps import StepRunner
from support.trainings import MakeAssignment, assert_equal_content

RECIPES: list[dict[str, Any]] = [
    {},
    {"augment": "none", "warmup": 0.5, "clip_norm": 0.1},
    {"augment": "shift", "label_smoothing": 0.1, "momentum": 0.0},
    {"augment": "crop_flip", "random_erasing": 0.5, "optimizer": "adamw", "learning_rate": 0.01},
    {"batch_size": 100, "weight_decay": 0.0, "precision": "bfloat16", "augment": "flip"},
]


def started(assign: Assign, *, tables: bool, device: str = "cpu") -> StepRunner:
    runner = StepRunner(assign, device, tables=tables)
    runner.load()
    runner.build()
    assert (runner._table_steps is not None) == tables
    return runner


def advance(runner: StepRunner) -> None:
    runner.train_step()
    if runner.state.batch == runner.batches:
        runner.state.begin_epoch()


def assert_equal_states(one: StepRunner, other: StepRunner) -> None:
    assert_equal_content(*(runner.state.to_checkpoint("identity") for runner in (one, other)))


@pytest.mark.parametrize(
    "recipe",
    [RECIPES[3], *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in RECIPES[:3] + RECIPES[4:])],
    ids=lambda recipe: "-".join(map(str, recipe.values())) or "default",
)
def test_tables_give_the_bits_of_the_host(assignment: MakeAssignment, recipe: dict[str, Any]) -> None:
    assign = assignment(**recipe)
    host, tables = (started(assign, tables=tables) for tables in (False, True))
    for _ in range(4):
        advance(host)
        advance(tables)
    assert_equal_states(host, tables)


def test_short_tables_are_refilled(assignment: MakeAssignment) -> None:
    runner = started(assignment(batch_size=32, augment="crop_flip"), tables=False)
    part, recipe, batches = runner.data.train, runner.recipe, runner.batches
    assert isinstance(part, ResidentPart)
    tables = step_tables.StepTables(part, 7, recipe, batches, max_rows=3)
    for epoch, batch in [*product(range(2), range(batches)), (0, 5), (0, 6), (1, 0), (1, 0)]:
        tables.seek(epoch, batch)
        images, labels, rate = tables.read()
        expected = part.batch(step_tables.key_of_batch(7, recipe, epoch, batch))
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
        assert float(rate) == runner.learning_rate(epoch * batches + batch)


def test_tables_resume_at_every_batch(assignment: MakeAssignment) -> None:
    assign = assignment(batch_size=128, augment="crop_flip")
    whole = started(assign, tables=True)
    for _ in range(whole.batches + 1):
        advance(whole)
        content = checkpoint.pack(whole.state.to_checkpoint("i"))
        host, resumed = (started(assign, tables=tables) for tables in (False, True))
        for runner in (host, resumed):
            runner.state.restore(checkpoint.unpack(content), identity="i", attempt=1)
            advance(runner)
        assert_equal_states(host, resumed)


def test_split_batches_and_class_weights_fit_into_tables(assignment: MakeAssignment) -> None:
    data = {"name": "digits", "train_images": 256, "validation_images": 100, "class_weights": "balanced"}
    assign = replace(assignment(data=data), split_batches=True)
    host, tables = (started(assign, tables=tables) for tables in (False, True))
    for _ in range(3):
        advance(host)
        advance(tables)
    assert_equal_states(host, tables)


@pytest.mark.parametrize(
    "recipe",
    [
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"stochastic_depth": 0.1},
        {"dropout": 0.1},
        {"ema_decay": 0.9},
        {"auto_augment": "trivialaugment"},
    ],
    ids=lambda recipe: next(iter(recipe)),
)
def test_other_recipes_use_no_tables(assignment: MakeAssignment, recipe: dict[str, Any]) -> None:
    runner = StepRunner(assignment(**recipe), tables=True)
    runner.load()
    runner.build()
    assert runner._table_steps is None
    runner.train_step()


@pytest.mark.parametrize("augment", ["none", "shift", "crop_flip"])
def test_table_step_reads_no_values_on_meta(assignment: MakeAssignment, augment: str) -> None:
    # Use torch's meta device, whose tensors have no values, because a capture must not read values.
    assign = assignment(augment=augment, label_smoothing=0.1, random_erasing=0.3, clip_norm=1.0)
    runner = started(assign, tables=True, device="meta")
    optimizer = runner.state.optimizer
    optimizer.step = lambda: None  # type: ignore[method-assign]  # fused SGD does not support the meta device
    runner.train_step()
    runner.train_step()
    assert all(parameter.grad is not None for parameter in runner.state.model.parameters())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rate_has_the_precision_of_its_device(device: str) -> None:
    rate = 0.1 / 3
    expected = rate if device == "cpu" else float(torch.tensor(rate, dtype=torch.float32))
    assert step_tables.device_rate(rate, device) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", range(12))
def test_random_networks_have_the_bits_of_the_host(assignment: MakeAssignment, number: int) -> None:
    assign = assignment(code=random_code(number), **RECIPES[number % len(RECIPES)])
    host, tables = (started(assign, tables=tables) for tables in (False, True))
    for _ in range(host.batches + 2):
        advance(host)
        advance(tables)
    assert_equal_states(host, tables)


def random_code(number: int) -> Any:
    space = Space(PRESETS["eatnas-tiny"], Task(8, 1, 10), Limits(None, None))
    return space.sample(KeyedRng(number, "networks"), lambda _: False).architecture.to_code()
