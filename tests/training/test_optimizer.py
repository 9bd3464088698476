from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal

import pytest
import torch
from torch import nn

from eatnas_db.domain.spec_recipe import TrainingRecipe
from eatnas_training.optimizer import learning_rate, make_optimizer


@pytest.mark.parametrize(("name", "of_torch"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_steps_equal_those_of_torchs_own_optimizer(name: Literal["sgd", "adamw"], of_torch: Any) -> None:
    recipe = TrainingRecipe(optimizer=name)
    own, others = (nn.Linear(5, 3) for _ in range(2))
    others.load_state_dict(own.state_dict())
    first = make_optimizer(own, recipe)
    second = of_torch(others.parameters(), lr=1.0)
    second.param_groups = make_optimizer(others, recipe).param_groups  # the groups hold all hyperparameters
    for seed in range(3):
        images = torch.rand(4, 5, generator=torch.Generator().manual_seed(seed))
        for model, optimizer in ((own, first), (others, second)):
            optimizer.zero_grad(set_to_none=True)
            model(images).square().sum().backward()
            optimizer.step()
        first.load_state_dict(first.state_dict())
    assert torch.equal(own.weight, others.weight)
    assert torch.equal(own.bias, others.bias)


def test_training_does_not_import_torchs_compiler() -> None:
    code = "import sys, torch; from eatnas_training import selftest; torch.set_num_threads(1); "
    code += "selftest.train_all_operations('cpu'); "
    code += "assert not {'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 100, 0.4, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_learning_rate_is_positive_in_the_shortest_trainings(steps: int, warmup: float) -> None:
    assert all(0 < learning_rate(step, steps, 0.1, warmup) <= 0.1 for step in range(steps))
