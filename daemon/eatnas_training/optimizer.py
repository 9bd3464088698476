"""Make the optimizer, and compute its learning rate schedule."""

from __future__ import annotations

import inspect
import math
from typing import Final

import torch
from torch import nn

from eatnas_db.domain.spec_recipe import TrainingRecipe

ADAM_BETA: Final = 0.999


class _PlainOptimizer(torch.optim.Optimizer):
    """An optimizer that does not import torch's compiler, which would take seconds and 150 MB and is never used.

    torch wraps the methods below to keep them out of compiled code. The first call of a wrapper would import the
    compiler.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class PlainSGD(_PlainOptimizer, torch.optim.SGD):
    """SGD without torch's compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class PlainAdamW(_PlainOptimizer, torch.optim.AdamW):
    """AdamW without torch's compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW, whose first beta is the recipe's momentum.

    Weight decay applies to weights, not to biases or batch-norm parameters.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return PlainAdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, ADAM_BETA), fused=True)
    return PlainSGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def recipe_rate(step: int, recipe: TrainingRecipe, batches: int) -> float:
    """Return the learning rate of a step (from 0) of a recipe; `batches` is the number of batches per epoch."""
    steps = recipe.epochs * batches
    return learning_rate(step, total_steps=steps, peak=recipe.learning_rate, warmup=recipe.warmup)


def learning_rate(step: int, total_steps: int, peak: float, warmup: float) -> float:
    """Return the rate of `step` (from 0): linear up to `peak` over the share `warmup`, then a cosine towards 0.

    The rate of every step is above 0, because the cosine reaches 0 one step after the last step.
    """
    warmup_steps = round(total_steps * warmup)
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * (1 + math.cos(math.pi * progress)) / 2
