"""Weights that are cast together give the same bits as autocast, with fewer operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode

from eatnas_db.domain.macro import Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.spaces import BUILT_IN_SPACES
from eatnas_protocol.messages import Assign
from eatnas_training import checkpoint, numerics
from eatnas_training.building import build_initialized
from eatnas_training.network import Convolution
from eatnas_training.step_graph import MIN_STEPS, WARM_UP_STEPS
from eatnas_training.steps import StepRunner
from eatnas_training.weight_casts import CastNetwork, forward_of
from support.trainings import MakeAssignment, assert_equal_content

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
CELLS = (
    "avg_pool_3x3/nor_conv_3x3/nor_conv_1x1/skip_connect/none/nor_conv_3x3",
    "nor_conv_3x3/none/none/none/none/none",
)
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 1e-3},
    "adamw and clipping": {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.5},
    "mixup and drops": {"mixup": 0.2, "dropout": 0.2, "stochastic_depth": 0.2},
    "average and two resolutions": {"ema_decay": 0.9, "cutmix": 1.0, "end_resolution": 12, "end_epochs": 1},
    "augmentation": {"random_erasing": 0.5, "auto_augment": "trivialaugment", "label_smoothing": 0.1},
}
ALWAYS = ("adamw and clipping", "average and two resolutions")
"""The recipes whose tests are not marked as slow."""


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch computes in this context."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[operation.overloadpacket._qualified_op_name.removeprefix("aten::")] += 1
        return operation(*args, **(kwargs or {}))


def started(assign: Assign, device: str = "cpu", *, autocast: bool = False, tables: bool | None = None) -> StepRunner:
    """Return a runner before its first step. With `autocast`, autocast casts each weight."""
    runner = StepRunner(assign, device, tables=tables)
    runner.load()
    runner.build()
    if autocast:
        runner._forward, runner._final_forward = runner.state.model, runner.state.final_model
    return runner


def advance(runner: StepRunner, steps: int) -> dict[str, Any]:
    """Train some batches, validate a batch after each trained batch, and return the content of a checkpoint."""
    for _ in range(steps):
        runner.train_step()
        runner.validate_step(0, runner.state.sums)  # adds the loss of the validation to the compared sums
        if runner.state.batch == runner.batches:
            runner.state.begin_epoch()
    return checkpoint.unpack(checkpoint.pack(runner.state.to_checkpoint("i")))


def assert_bits_of_autocast(assign: Assign, steps: int = 3, *, tables: bool = False) -> None:
    together, autocast = (started(assign, autocast=autocast, tables=tables) for autocast in (False, True))
    assert together._forward is not together.state.model
    assert autocast._forward is autocast.state.model
    assert_equal_content(advance(together, steps), advance(autocast, steps))


def cell_of(assign: Assign, operations: str) -> Assign:
    space = BUILT_IN_SPACES["nasbench201-tiny"]
    code = space.to_code(space.parse("/".join(f"op={operation}" for operation in operations.split("/"))))
    return replace(assign, macro=asdict(space), code=code)


@pytest.mark.parametrize(
    ("recipe", "split_batches"),
    [
        pytest.param(recipe, split, marks=() if name in ALWAYS and split else pytest.mark.slow, id=f"{name} {split}")
        for name, recipe in RECIPES.items()
        for split in (False, True)
    ],
)
def test_recipes_have_the_bits_of_autocast(
    assignment: MakeAssignment, recipe: dict[str, Any], split_batches: bool
) -> None:
    assign = assignment(batch_size=128, precision="bfloat16", **recipe)
    assert_bits_of_autocast(replace(assign, split_batches=split_batches))


@pytest.mark.parametrize("cell", CELLS)
def test_cells_have_the_bits_of_autocast(assignment: MakeAssignment, cell: str) -> None:
    assert_bits_of_autocast(cell_of(assignment(precision="bfloat16", weight_decay=0.1), cell))


def test_table_steps_have_the_bits_of_autocast(assignment: MakeAssignment) -> None:
    assert_bits_of_autocast(assignment(precision="bfloat16", augment="crop_flip"), tables=True)


def test_streamed_images_have_the_bits_of_autocast(assignment: MakeAssignment, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(80):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(draws.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    data = {"name": "ImageNet", "root": str(tmp_path), "resolution": 16}
    assign = replace(assignment(data=data, batch_size=16, precision="bfloat16"), task=asdict(Task(16, 3, 2)))
    assert_bits_of_autocast(assign)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_random_networks_have_the_bits_of_autocast(assignment: MakeAssignment, number: int) -> None:
    name = ("eatnas-tiny", "nasbench201-tiny")[number % 2]
    space = Space(BUILT_IN_SPACES[name], Task(8, 1, 10))
    code = space.macro.to_code(space.sample(KeyedRng(number, "networks"), lambda _: False).architecture)
    recipe = list(RECIPES.values())[number % len(RECIPES)]
    assign = assignment(batch_size=64, precision="bfloat16", code=code, **recipe)
    assert_bits_of_autocast(replace(assign, macro=asdict(BUILT_IN_SPACES[name])))


def test_training_resumes_at_every_batch_with_or_without_autocast(assignment: MakeAssignment) -> None:
    assign = assignment(batch_size=128, precision="bfloat16", ema_decay=0.9)
    whole = advance(started(assign, autocast=True), 4)
    first = started(assign)
    for steps in range(1, 4):
        content = advance(first, 1)
        assert content["model"].keys() == whole["model"].keys()
        assert all(tensor.dtype != torch.bfloat16 for tensor in content["model"].values())
        resumed = started(assign, autocast=steps == 2)
        resumed.state.restore(content, identity="i", attempt=1)
        assert_equal_content(advance(resumed, 4 - steps), whole)


class OneOfTwo(nn.Module):
    """Computes with only one of its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = (Convolution(3, 4) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.used(images)
        return output


def test_unused_weight_gets_no_gradient() -> None:
    # The unused weight must have no gradient: with a gradient of 0, weight decay and momentum would change the weight.
    model = OneOfTwo()
    nn.init.ones_(model.used.weight)
    with numerics.autocast("cpu", "bfloat16"):
        CastNetwork(model)(torch.ones(2, 3, 4, 4)).sum().backward()
    assert model.used.weight.grad is not None
    assert model.unused.weight.grad is None


def test_float32_and_plugins_compute_the_network_itself(assignment: MakeAssignment) -> None:
    assign, model = assignment(), OneOfTwo()
    with_plugins = replace(assign, macro={**assign.macro, "plugins": []})
    assert forward_of(model, assign, "float32") is model
    assert forward_of(model, with_plugins, "bfloat16") is model
    assert isinstance(forward_of(model, assign, "bfloat16"), CastNetwork)


@pytest.mark.parametrize("name", BUILT_IN_SPACES)
def test_two_operations_cast_all_weights_and_gradients(name: str) -> None:
    space, task = BUILT_IN_SPACES[name], Task(8, 3, 10)
    model = build_initialized(Space(space, task).smallest().architecture, space, task, 1)
    weights = sum(isinstance(part, nn.Conv2d) for part in model.modules())

    def count(forward: Callable[[Tensor], Tensor]) -> Counter[str]:
        with Operations() as operations:
            with numerics.autocast("cpu", "bfloat16"):
                logits = forward(torch.ones(2, 3, 8, 8))
            logits.sum().backward()
        return operations.counts

    together, autocast = count(CastNetwork(model)), count(model)
    assert together["_foreach_copy_"] == 2
    assert together["_to_copy"] == 3  # casts the images, the features before the classifier, and their gradient
    assert autocast["_foreach_copy_"] == 0
    assert autocast["_to_copy"] == 3 + 2 * weights


def test_step_and_validation_cast_by_three_operations(assignment: MakeAssignment) -> None:
    together, autocast = (started(assignment(precision="bfloat16"), autocast=autocast) for autocast in (False, True))
    weights = sum(isinstance(part, nn.Conv2d) for part in together.state.model.modules())
    casts = []
    for runner in (together, autocast):
        with Operations() as operations:
            runner.train_step()
            runner.validate_step(0, runner.state.sums)
        # In inference mode, the operation `to` is not divided into smaller operations.
        single = operations.counts["_to_copy"] + operations.counts["to"]
        casts.append((single, operations.counts["_foreach_copy_"]))
    others = casts[0][0]
    assert casts == [(others, 3), (others + 3 * weights, 0)]


def test_autocast_casts_a_weight_that_is_used_twice_once() -> None:
    weight = nn.Parameter(torch.ones(4, 4, 1, 1))
    images = torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)
    with Operations() as operations:
        with numerics.autocast("cpu", "bfloat16"):
            output = conv2d(conv2d(images, weight), weight)
        output.sum().backward()
    assert operations.counts["_to_copy"] == 2  # casts the weight and its gradient


@CUDA
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_gpu_casts_have_the_bits_of_autocast(assignment: MakeAssignment, recipe: dict[str, Any]) -> None:
    assign = assignment(precision="auto", epochs=MIN_STEPS, **recipe)
    together, again = (started(assign, "cuda:0", tables=tables) for tables in (True, False))
    autocast = started(assign, "cuda:0", autocast=True, tables=False)
    contents = [advance(runner, WARM_UP_STEPS + 8) for runner in (together, again, autocast)]
    assert_equal_content(contents[0], contents[2])
    assert_equal_content(contents[1], contents[2])
