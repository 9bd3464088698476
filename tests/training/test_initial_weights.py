"""Final models can start from the weights of another final model of the same architecture."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from eatnas_db.domain.states import FailureKind
from eatnas_protocol.messages import Assign, Checkpointed, InitialWeights
from eatnas_training.inheritance.initial_weights import read_initial_weights
from eatnas_training.inheritance.parent import spec_of
from eatnas_training.inheritance.transfer import inherit
from eatnas_training.state import build_network
from eatnas_training.steps import StepRunner
from support.trainings import (
    MakeAssignment,
    Reports,
    assert_same_bits,
    failed,
    finished,
    released_in_training,
    run_training,
    saved_state,
)


def final_model(assignment: MakeAssignment, **fields: Any) -> Reports:
    """Train a final model for an epoch."""
    return run_training(replace(assignment(epochs=1, **fields), final_model=True))


def source_of(assign: Assign, reports: Reports) -> InitialWeights:
    return InitialWeights(
        label=f"other.final/{assign.candidate}",
        candidate=assign.candidate,
        checkpoint_folder=reports.folder,
        digest=reports.of(Checkpointed)[-1].digest,
        code=assign.code,
        macro=assign.macro,
        task=assign.task,
    )


def from_source(assign: Assign, source: InitialWeights) -> Assign:
    recipe = {**assign.training, "from": {"search": "other.final", "candidate": 1, "digest": source.digest}}
    return replace(assign, training=recipe, initial_weights=asdict(source), final_model=True)


@pytest.mark.parametrize("recipe", [{}, {"ema_decay": 0.5}], ids=["weights", "average"])
def test_network_starts_with_the_tested_weights_of_the_source(
    assignment: MakeAssignment, recipe: dict[str, Any]
) -> None:
    reports = final_model(assignment, **recipe)
    saved = saved_state(reports)
    runner = StepRunner(from_source(assignment(seed=8), source_of(assignment(), reports)))
    runner.load()
    runner.build(read_initial_weights(source_of(assignment(), reports)))
    expected = saved["average"] if recipe else saved["model"]
    weights = runner.state.model.state_dict()
    floats = [name for name, tensor in expected.items() if tensor.is_floating_point()]
    assert all(torch.equal(weights[name], expected[name]) for name in floats)
    assert (runner.state.share_inherited, runner.state.logit_distance) == (1.0, None)


def test_stem_and_classifier_of_other_shapes_are_not_copied(assignment: MakeAssignment) -> None:
    reports = final_model(assignment)
    parent = read_initial_weights(source_of(assignment(), reports))
    other = replace(assignment(seed=8), task={"resolution": 8, "channels": 3, "classes": 7})
    model = build_network(other)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inherit(parent.weights, parent.spec, model, spec_of(other))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            own = name.startswith(("features.0.", "features.1.", "classifier."))
            assert torch.equal(tensor, (initial if own else parent.weights)[name]), name


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupted_training_ends_with_the_same_bits(assignment: MakeAssignment, devices: int) -> None:
    source = source_of(assignment(), final_model(assignment))
    fields: dict[str, Any] = {"seed": 8, "epochs": 2, "ema_decay": 0.9, "devices": devices}
    uninterrupted = run_training(from_source(assignment(**fields), source))
    fresh = run_training(replace(assignment(**fields), final_model=True))
    assert finished(uninterrupted).loss != finished(fresh).loss
    assign = from_source(assignment(**fields), source)
    assert released_in_training(assign, 3).of(Checkpointed)
    # The source is needed only for the first batch.
    resumed = run_training(replace(assign, attempt=2, initial_weights={**asdict(source), "digest": "0" * 64}))
    assert_same_bits(uninterrupted, resumed)


def test_training_resumes_only_with_the_same_source(assignment: MakeAssignment) -> None:
    first, second = (final_model(assignment, seed=seed) for seed in (7, 8))
    assign = from_source(assignment(), source_of(assignment(), first))
    released_in_training(assign, 3)
    other = from_source(replace(assign, attempt=2), source_of(assignment(), second))
    expected = run_training(from_source(assignment(), source_of(assignment(), second)))
    assert finished(run_training(other)).loss == finished(expected).loss


@pytest.mark.parametrize("harm", ["delete", "damage", "replace"])
def test_missing_source_is_reported_in_one_line_as_unreadable_data(assignment: MakeAssignment, harm: str) -> None:
    reports = final_model(assignment)
    source = source_of(assignment(), reports)
    file = reports.last_checkpoint()
    if harm == "delete":
        file.unlink()
    elif harm == "damage":
        file.write_bytes(b"x" + file.read_bytes()[1:])
    else:
        file.write_bytes(final_model(assignment, seed=9).last_checkpoint().read_bytes())
    failure = failed(run_training(from_source(assignment(), source)))
    assert failure.kind == FailureKind.UNREADABLE_DATA  # the host sets the search aside and tries again
    start = "final.from: there is no intact checkpoint of the final model other.final/1 with the SHA-256"
    assert failure.message.startswith(start)
    assert "\n" not in failure.message


def test_source_that_the_record_lost_is_reported_in_one_line(assignment: MakeAssignment) -> None:
    source = replace(source_of(assignment(), final_model(assignment)), macro={}, code=[], task={})
    failure = failed(run_training(from_source(assignment(), source)))
    assert failure.message.startswith("final.from: the record no longer has the final model other.final/1;")
