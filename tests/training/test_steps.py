"""Training steps can split a batch, use the recipe's precision, and do not wait for a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eatnas_protocol.messages import Resumed
from eatnas_training import numerics, steps
from eatnas_training.steps import StepRunner
from eatnas_training.worker_protocol import StopRequest
from support.trainings import (
    MakeAssignment,
    after_calls,
    assert_same_bits,
    epoch_metrics,
    finished,
    run_training,
    saved_state,
)

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
AUGMENTATIONS = ("none", "flip", "shift", "crop_flip")


def test_micro_batches_train_the_same_images_with_other_statistics(assignment: MakeAssignment) -> None:
    losses = []
    for split_batches in (False, True):
        runner = StepRunner(replace(assignment(epochs=1), split_batches=split_batches))
        runner.load()
        runner.build()
        runner.train_step()
        assert float(runner.state.sums[2]) == 64
        losses.append(float(runner.state.sums[0]))
        assert all(torch.isfinite(parameter).all() for parameter in runner.state.model.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


@pytest.mark.parametrize("batch_size", [64, 67])
def test_split_batch_updates_statistics_once(assignment: MakeAssignment, batch_size: int) -> None:
    states = []
    for split_batches in (False, True):
        runner = StepRunner(replace(assignment(batch_size=batch_size), split_batches=split_batches))
        runner.load()
        runner.build()
        runner.train_step()
        states.append(runner.state.model.state_dict())
    whole, split = states
    counts = [int(tensor) for name, tensor in split.items() if name.endswith("num_batches_tracked")]
    assert counts
    assert set(counts) == {1}
    # Only the stem's batch norm gets the same inputs in both trainings, so only its statistics must be equal.
    for name in ("features.1.running_mean", "features.1.running_var"):
        torch.testing.assert_close(split[name], whole[name], rtol=1e-5, atol=1e-6)
    mean = next(name for name in reversed(split) if name.endswith("running_mean"))
    torch.testing.assert_close(split[mean], whole[mean], rtol=0.5, atol=0.05)


def test_logits_are_float32_in_every_precision(assignment: MakeAssignment) -> None:
    runner = StepRunner(assignment(precision="bfloat16"))
    runner.load()
    runner.build()
    images, _ = runner.data.held_out.between(0, 100)
    with numerics.autocast("cpu", "bfloat16"):
        assert runner.state.model.features(images).dtype == torch.bfloat16
        logits = runner.state.model(images)
    assert logits.dtype == torch.float32
    best, second = logits.topk(2).values.unbind(1)
    assert bool((best > second).all())


@pytest.mark.slow
def test_recipe_decides_the_precision(assignment: MakeAssignment) -> None:
    auto, plain = (run_training(assignment(precision=precision)) for precision in ("auto", "float32"))
    assert finished(auto).precision == finished(plain).precision == "float32"
    assert epoch_metrics(auto) == epoch_metrics(plain)
    half = run_training(assignment(precision="bfloat16"))
    assert finished(half).precision == "bfloat16"
    assert epoch_metrics(half) != epoch_metrics(plain)
    assert all(tensor.dtype != torch.bfloat16 for tensor in saved_state(half)["model"].values())
    released = run_training(assignment(attempt=2, precision="bfloat16"), after_calls(3, StopRequest.RELEASE))
    resumed = run_training(assignment(attempt=3, precision="bfloat16", checkpoint_folder=released.folder))
    assert_same_bits(half, resumed)


def test_checkpoint_of_another_device_is_used_and_marked_mixed(
    assignment: MakeAssignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(steps, "resolve_precision", lambda *_: "bfloat16")
        released = run_training(assignment(), after_calls(3, StopRequest.RELEASE))
    reports = run_training(assignment(attempt=2, checkpoint_folder=released.folder))
    resumed = reports.only(Resumed)
    assert (resumed.path, resumed.damaged) == (released.last_checkpoint().name, {})
    assert finished(reports).precision == "mixed"


def test_checkpoint_of_another_recipe_precision_is_refused(assignment: MakeAssignment) -> None:
    released = run_training(assignment(precision="bfloat16"), after_calls(3, StopRequest.RELEASE))
    reports = run_training(assignment(attempt=2, precision="float32", checkpoint_folder=released.folder))
    assert reports.only(Resumed).path is None
    assert finished(reports).precision == "float32"


@pytest.mark.parametrize(
    ("augment", "split_batches"),
    [
        *((augment, False) for augment in AUGMENTATIONS),
        ("crop_flip", True),
        *(pytest.param(augment, True, marks=pytest.mark.slow) for augment in AUGMENTATIONS if augment != "crop_flip"),
    ],
)
def test_step_never_reads_values_from_its_device(assignment: MakeAssignment, augment: str, split_batches: bool) -> None:
    # Tensors on torch's meta device have no values: reading a value raises an error, and so does mixing devices.
    assign = replace(assignment(augment=augment, label_smoothing=0.1), split_batches=split_batches)
    runner = StepRunner(assign, "meta")
    runner.load()
    runner.build()
    state = runner.state
    state.optimizer = torch.optim.SGD(state.model.parameters(), 0.1)  # fused SGD does not support the meta device
    runner.train_step()
    runner.train_step()
    assert state.sums.device.type == "meta"
    assert all(parameter.grad is not None for parameter in state.model.parameters())
    assert runner.validate_step(0, state.sums) > 0
    with pytest.raises(NotImplementedError, match="no data"):
        runner.read_sums(state.sums)


@CUDA
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gpu_trainings_have_the_same_bits(assignment: MakeAssignment, precision: str) -> None:
    uninterrupted = run_training(assignment(precision=precision), device="cuda:0")
    assert finished(uninterrupted).precision == numerics.resolve_precision("cuda:0", precision)
    assert_same_bits(uninterrupted, run_training(assignment(attempt=2, precision=precision), device="cuda:0"))
    released = run_training(
        assignment(attempt=3, precision=precision), after_calls(3, StopRequest.RELEASE), device="cuda:0"
    )
    resumed = assignment(attempt=4, precision=precision, checkpoint_folder=released.folder)
    assert_same_bits(uninterrupted, run_training(resumed, device="cuda:0"))


@CUDA
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_gpu_step_does_not_synchronize(assignment: MakeAssignment) -> None:
    runner = StepRunner(assignment(), "cuda:0")
    runner.load()
    runner.build()
    runner.train_step()  # the first step allocates memory
    try:
        torch.cuda.set_sync_debug_mode("error")
        runner.train_step()
        runner.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
