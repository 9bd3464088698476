"""A step that cannot be captured is called each time. On a GPU, the captured graph gives the same bits as calls of the
step.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from eatnas_training import checkpoint
from eatnas_training.step_graph import MIN_STEPS, WARM_UP_STEPS, StepGraph
from eatnas_training.steps import StepRunner
from eatnas_training.worker_protocol import StopRequest
from support.trainings import MakeAssignment, after_calls, assert_equal_content, assert_same_bits, run_training

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
STEPS = 2 * WARM_UP_STEPS + 6


def test_processor_calls_every_step() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    calls: list[int] = []
    graph = StepGraph("cpu")
    for number in range(STEPS):
        graph.run(lambda number=number: calls.append(number), torch.optim.SGD([weight], 0.1))
    assert calls == list(range(STEPS))
    assert not graph.is_captured


def runner_of(assignment: MakeAssignment, *, tables: bool, **options: Any) -> StepRunner:
    runner = StepRunner(assignment(**{"epochs": MIN_STEPS, **options}), "cuda:0", tables=tables)
    runner.load()
    runner.build()
    return runner


def train(runner: StepRunner, steps: int) -> dict[str, Any]:
    for _ in range(steps):
        runner.train_step()
        if runner.state.batch == runner.batches:
            runner.state.begin_epoch()
    return checkpoint.unpack(checkpoint.pack(runner.state.to_checkpoint("i")))


@CUDA
@pytest.mark.parametrize("number", range(24))
def test_gpu_graph_has_the_bits_of_calls(assignment: MakeAssignment, number: int) -> None:
    draws = random.Random(number)
    code: list[list[int | float]] = [
        [draws.randrange(3), draws.randrange(3), draws.randrange(2), draws.randrange(3), draws.choice([0.5, 1.0, 1.5])]
        for _ in range(7)
    ]
    recipe = {"precision": ("auto", "float32")[number % 2], "optimizer": ("sgd", "sgd", "adamw")[number % 3]}
    recipe |= {"clip_norm": 1.0} if number % 4 == 1 else {"random_erasing": 0.3} if number % 4 == 2 else {}
    graph, again, calls = (runner_of(assignment, tables=tables, code=code, **recipe) for tables in (True, True, False))
    contents = [train(runner, STEPS) for runner in (graph, again, calls)]
    assert graph._table_steps is not None
    assert graph._table_steps.graph.is_captured
    assert_equal_content(contents[0], contents[1])
    assert_equal_content(contents[0], contents[2])


@CUDA
def test_gpu_graph_resumes_at_every_batch(assignment: MakeAssignment) -> None:
    whole = train(runner_of(assignment, tables=True), STEPS)
    for steps in range(1, STEPS):
        first = train(runner_of(assignment, tables=True), steps)
        resumed = runner_of(assignment, tables=True)
        resumed.state.restore(first, identity="i", attempt=1)
        assert_equal_content(train(resumed, STEPS - steps), whole)


@CUDA
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_gpu_replay_does_not_synchronize(assignment: MakeAssignment) -> None:
    runner = runner_of(assignment, tables=True)
    train(runner, WARM_UP_STEPS + 2)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(2):
            runner.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@CUDA
def test_gpu_step_that_synchronizes_is_called(assignment: MakeAssignment, capsys: pytest.CaptureFixture[str]) -> None:
    def read_values(module: torch.nn.Module, _: object) -> None:
        float(next(module.parameters()).sum())

    graph, calls = (runner_of(assignment, tables=tables) for tables in (True, False))
    graph.state.model.register_forward_pre_hook(read_values)
    assert_equal_content(train(graph, STEPS), train(calls, STEPS))
    assert graph._table_steps is not None
    assert not graph._table_steps.graph.is_captured
    assert "waits for the GPU, so it is not captured" in capsys.readouterr().out


@CUDA
def test_gpu_training_is_freed_without_collection(assignment: MakeAssignment) -> None:
    import gc

    gc.collect()
    torch.cuda.empty_cache()
    runner = runner_of(assignment, tables=True)
    train(runner, STEPS)
    gc.disable()
    try:
        data = runner.data
        before = torch.cuda.memory_allocated()
        del runner
        images = sum(tensor.nbytes for tensor in (data.train.images, data.held_out.images))  # type: ignore[attr-defined]
        assert torch.cuda.memory_allocated() < max(before // 2, 2 * images + (1 << 20))
    finally:
        gc.enable()


@CUDA
def test_gpu_training_with_graphs_is_resumed(assignment: MakeAssignment) -> None:
    options: dict[str, Any] = {"epochs": 12}
    whole = run_training(assignment(**options), device="cuda:0")
    released = run_training(
        assignment(attempt=2, **options), after_calls(WARM_UP_STEPS + 5, StopRequest.RELEASE), device="cuda:0"
    )
    resumed = assignment(attempt=3, checkpoint_folder=released.folder, **options)
    assert_same_bits(whole, run_training(resumed, device="cuda:0"))
