"""The training methods that only final models use: each method changes the result, and an interruption does not change
the bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from eatnas_protocol.messages import Assign
from eatnas_training.export.exporting import describe_model
from eatnas_training.export.verification import compute_logits
from eatnas_training.worker_protocol import StopRequest
from support.exports import export_request
from support.trainings import (
    MakeAssignment,
    after_calls,
    assert_same_bits,
    epoch_metrics,
    finished,
    run_training,
    saved_state,
)

METHODS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01},
    "gradient clipping": {"clip_norm": 0.5},
    "weight average": {"ema_decay": 0.9},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "randaugment": {"auto_augment": "randaugment"},
    "trivialaugment": {"auto_augment": "trivialaugment", "augment": "crop_flip"},
    "random erasing": {"random_erasing": 0.5},
    "stochastic depth": {"stochastic_depth": 0.3},
    "dropout": {"dropout": 0.3},
    "larger images at the end": {"end_resolution": 12, "end_epochs": 1},
}
ALL = {key: value for method in METHODS.values() for key, value in method.items()}


def final(assignment: MakeAssignment, **fields: Any) -> Assign:
    return replace(assignment(**fields), final_model=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_changes_the_result(assignment: MakeAssignment, method: str) -> None:
    plain, changed = run_training(final(assignment)), run_training(final(assignment, **METHODS[method]))
    assert (finished(plain).loss, finished(plain).accuracy) != (finished(changed).loss, finished(changed).accuracy)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_resumes_within_an_epoch_with_the_same_bits(assignment: MakeAssignment, method: str) -> None:
    assert_resumes(assignment, calls=3, **METHODS[method])


@pytest.mark.slow
@pytest.mark.parametrize("calls", [3, 8])
def test_all_methods_together_resume_with_the_same_bits(assignment: MakeAssignment, calls: int) -> None:
    assert_resumes(assignment, calls, **ALL)


@pytest.mark.slow
def test_split_batches_resume_with_the_same_bits(assignment: MakeAssignment) -> None:
    assert_resumes(assignment, calls=3, split=True, **ALL)


def assert_resumes(assignment: MakeAssignment, calls: int, *, split: bool = False, **recipe: Any) -> None:
    def assign(**fields: Any) -> Assign:
        return replace(final(assignment, **recipe, **fields), split_batches=split)

    uninterrupted = run_training(assign())
    released = run_training(assign(attempt=2), after_calls(calls, StopRequest.RELEASE))
    torch.rand(3)  # a draw from the global generator must change nothing
    resumed = run_training(assign(attempt=3, checkpoint_folder=released.folder))
    assert_same_bits(uninterrupted, resumed)
    assert finished(uninterrupted).loss == finished(resumed).loss


def test_weight_average_is_evaluated_and_exported(assignment: MakeAssignment) -> None:
    plain, averaged = run_training(final(assignment)), run_training(final(assignment, ema_decay=0.9))
    assert epoch_metrics(plain) == epoch_metrics(averaged)  # the average does not change the training
    assert finished(plain).loss != finished(averaged).loss
    saved = saved_state(averaged)
    assert saved["average"].keys() == saved["model"].keys()
    assert any(not torch.equal(saved["average"][name], tensor) for name, tensor in saved["model"].items())


def test_methods_that_are_off_leave_the_identity_of_a_checkpoint(assignment: MakeAssignment) -> None:
    saved = saved_state(run_training(assignment(epochs=1)))
    assert not METHODS.keys() & saved.keys()
    assert not any(key in saved["identity"] for key in ALL if key not in ("augment", "learning_rate"))


def test_export_has_the_average_and_the_last_resolution(assignment: MakeAssignment) -> None:
    assign = assignment(ema_decay=0.5, end_resolution=12, end_epochs=1)
    reports = run_training(assign)
    network, images, description = describe_model(export_request(assign, reports, {}))
    assert description.network_task.resolution == 12
    logits = compute_logits(network.to(memory_format=torch.channels_last), images.batches())
    assert float((logits.argmax(1) == images.labels).double().mean()) == finished(reports).accuracy
