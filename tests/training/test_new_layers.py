"""The layers that a child network has and its parent lacks learn from the images."""

from __future__ import annotations

import pytest
import torch

from eatnas_db.domain.change import Change
from support.inheritance import (
    EXACT,
    apply_changes,
    images,
    inherit,
    network_spec,
    one_step,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("code", "primitive", "after"),
    [*EXACT, ("sep_k3_d1_w1.0_skip", "depth", 3), ("mb3_k3_d2_w1.0", "skip", True)],
)
def test_all_new_parameters_learn(code, primitive, after) -> None:
    parent = network_spec(code)
    child = apply_changes(parent, Change(2, primitive, "", after), Change(4, primitive, "", after))
    _, new, _ = inherit(parent, child)
    before = {name: parameter.detach().clone() for name, parameter in new.named_parameters()}
    inputs, labels = images(count=32), torch.arange(32) % 10
    losses = [one_step(new, inputs, labels) for _ in range(4)]
    assert losses[-1] < losses[0]
    for name, parameter in new.named_parameters():
        is_changed = (parameter != before[name]).reshape(len(parameter), -1).any(1)
        # Biases may stay unchanged, because the next batch norm removes their effect. A few channels of the random
        # parent may be inactive for all images.
        assert name.endswith("bias") or float(is_changed.double().mean()) > 0.8, name


def test_layer_appended_to_a_separable_block_learns() -> None:
    parent = network_spec("sep_k3_d1_w1.0_skip")
    _, new, _ = inherit(parent, apply_changes(parent, Change(2, "depth", 1, 2)))
    gamma = new.features[5].body[4].weight
    before = gamma.detach().clone()
    inputs, labels = images(count=32), torch.arange(32) % 10
    for _ in range(10):
        one_step(new, inputs, labels, 0.1)
    assert bool(((gamma - before).abs() > before.abs()).any())


@pytest.mark.parametrize("code", ["mb3_k3_d1_w1.0", "mb6_k5_d1_w1.0", "sep_k3_d1_w1.0"])
def test_identity_layer_is_nearly_exact_in_training_mode(code) -> None:
    parent = network_spec(code)
    old, new, _ = inherit(parent, apply_changes(parent, Change(2, "depth", 1, 2)))
    inputs = images(count=64)
    with torch.no_grad():
        before, after = old.train()(inputs), new.train()(inputs)
    assert float((after - before).std() / (before - before.mean(0)).std()) < 0.3
