"""Networks with random weights, and children that inherit these weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.change import Change
from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.domain.space import apply_change
from eatnas_training import network
from eatnas_training.inheritance.transfer import Inheritance, NetworkSpec, inherit_weights

TASK = Task(8, 1, 10)
TINY = PRESETS["eatnas-tiny"]
EVEN = Macro("even", 8, 1, (1, 1, 2, 1), (8, 8, 8, 8), 24)
"""Blocks of equal width, in which a change can turn an identity into a bypass and back."""

EXACT = [
    ("mb3_k3_d2_w1.0_skip", "kernel", 7),
    ("mb6_k3_d2_w1.0", "kernel", 5),
    ("sep_k5_d2_w1.0_skip", "kernel", 7),
    ("sep_k3_d1_w1.0", "kernel", 7),
    ("mb3_k3_d1_w1.0_skip", "depth", 4),
    ("mb3_k5_d1_w1.0", "depth", 3),
    ("mb6_k3_d2_w0.5", "depth", 4),
    ("sep_k3_d1_w1.0", "depth", 4),
    ("mb3_k3_d2_w1.0", "width", 2.0),
    ("mb3_k3_d2_w1.0_skip", "width", 1.5),
    ("mb6_k5_d1_w0.5_skip", "width", 2.0),
    ("sep_k3_d2_w1.0", "width", 2.0),
    ("mb3_k3_d2_w1.0", "op", "mb6"),
    ("mb3_k7_d2_w1.0_skip", "op", "mb6"),
]
"""Changes that preserve the function of the network: the block of the parent, the primitive, and its new value."""


def network_spec(code: str, macro: Macro = EVEN, task: Task = TASK) -> NetworkSpec:
    """Return the spec of a network. `code` is either one block, which is used for all blocks of the macro, or the whole
    architecture.
    """
    block_codes = code.split("/")
    return NetworkSpec(
        Architecture.parse("/".join(block_codes if len(block_codes) > 1 else block_codes * len(macro.base))),
        macro,
        task,
    )


def apply_changes(parent: NetworkSpec, *changes: Change) -> NetworkSpec:
    architecture = parent.architecture
    for change in changes:
        architecture = apply_change(architecture, change)
    return NetworkSpec(architecture, parent.macro, parent.task)


def initialized(spec: NetworkSpec, seed: int) -> network.Network:
    """Return an initialized network in double precision, which makes rounding errors far smaller than any other
    difference.
    """
    model = network.build(spec.architecture, spec.macro, spec.task)
    network.initialize(model, seed)
    return model.double()


def trained(spec: NetworkSpec, seed: int) -> network.Network:
    """Return a network that resembles a trained network: it has random gammas and betas, and batch-norm statistics that
    fit the weights.
    """
    model = initialized(spec, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.3, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.momentum = 0.9
        model.classifier.weight.normal_(generator=generator)
        model.classifier.bias.normal_(generator=generator)
        model.train()(images(spec.task, count=8, seed=seed))
    return model


def images(task: Task = TASK, count: int = 4, seed: int = 0) -> Tensor:
    shape = (count, task.channels, task.resolution, task.resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = model.eval()(inputs)
    return result


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference between two sets of logits, relative to the spread of the first set."""
    return float((one - other).abs().max() / (one - one.mean(0)).abs().max())


def inherit(
    parent: NetworkSpec, child: NetworkSpec, seed: int = 0
) -> tuple[network.Network, network.Network, Inheritance]:
    old, new = trained(parent, seed), initialized(child, seed + 2)
    return old, new, inherit_weights(old.state_dict(), parent, new, child)


def one_step(model: nn.Module, inputs: Tensor, labels: Tensor, rate: float = 0.05) -> float:
    """Take a step of gradient descent in training mode. Return the loss before the step."""
    loss = cross_entropy(model.train()(inputs), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= rate * gradient
    return float(loss.detach())
