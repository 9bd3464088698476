"""Build the network of an architecture in any space, and check the network if it contains code of a plug-in."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cost import Cost
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.operators import BUILT_IN_OPERATORS
from eatnas_db.domain.rng import derive_seed
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.plugins import Plugin
from eatnas_training.data.random_states import watch_global_draws
from eatnas_training.network import initialize

PROBES: Final = 2
"""The number of images in the checks. A batch norm needs more than one image."""


class OperatorError(Exception):
    """An operator or a space of a package breaks a rule of its interface."""


def build(architecture: Architecture, space: SpaceDefinition, task: Task) -> nn.Module:
    """Return the network of `architecture`; its weights are unset until `network.initialize`."""
    network: nn.Module = Plugin(space.network, space.network).load()(architecture, space, task)
    return network


def build_initialized(architecture: Architecture, space: SpaceDefinition, task: Task, seed: int) -> nn.Module:
    """Return the network of an architecture with the initial weights that `seed` determines."""
    model = build(architecture, space, task)
    initialize(model, seed)
    return model


def build_with_plugins(
    architecture: Architecture, space: SpaceDefinition, task: Task, seed: int, *, recorded: Cost | None = None
) -> nn.Module:
    """Return the initialized network of an architecture whose space or operators come from packages.

    torch's global generator is seeded with `seed`, so that the parameters of a plug-in's modules depend only on `seed`.
    `recorded` is the cost that the daemon has counted. Raises `OperatorError` if the plug-in raises an exception, if
    two calls build different networks, if the plug-in's cost function differs from `recorded` or from the cost that
    torch counts, if the output is not finite, or if code draws from another global generator.
    """
    culprit = name_plugins(architecture, space)
    try:
        model, probe = (_build_seeded(architecture, space, task, seed, culprit) for _ in range(2))
        _require_equal(model, probe, culprit)
        expected, _ = space.measure(architecture, task)
        if recorded is not None and expected != recorded:
            raise OperatorError(
                f"{culprit}: the cost function counts {_describe_cost(expected)} in the worker, but counted "
                f"{_describe_cost(recorded)} in the daemon; its result must depend on the arguments alone"
            )
        _require_cost(probe, expected, task, culprit)
        _require_pure_forward(probe, task, culprit)
    except (OperatorError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the code of a package may raise any exception
        raise OperatorError(f"{culprit} raises {type(error).__name__}: {error}") from error
    return model


def name_plugins(architecture: Architecture, space: SpaceDefinition) -> str:
    """Return a description of a network's plug-ins for error messages: the operators that come from packages, or the
    space if no operator does.
    """
    if isinstance(space, Macro):
        used = dict.fromkeys(block.op for block in architecture.blocks)
        names = [name for name in used if space.operator(name) not in BUILT_IN_OPERATORS]
        if names:
            return f"operator{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return f"space {space.name}"


def _build_seeded(architecture: Architecture, space: SpaceDefinition, task: Task, seed: int, culprit: str) -> nn.Module:
    with watch_global_draws() as drawn:
        torch.manual_seed(derive_seed(seed, "operator"))
        model = build_initialized(architecture, space, task, seed)
    # Draws from torch's generator are allowed, because torch's own modules draw their initial weights from it.
    if others := [library for library in drawn if library != "torch"]:
        raise OperatorError(_describe_draws(culprit, others))
    return model


def _require_equal(model: nn.Module, other: nn.Module, culprit: str) -> None:
    if {id(part) for part in model.modules()} & {id(part) for part in other.modules()}:
        raise OperatorError(
            f"{culprit} returns the same module twice, so networks would share weights; return a new module each time"
        )
    first, second = model.state_dict(), other.state_dict()
    if first.keys() != second.keys() or not all(torch.equal(first[name], second[name]) for name in first):
        raise OperatorError(
            f"{culprit} builds different networks or initial weights for one architecture and seed; initialize every "
            "parameter, and depend on the arguments alone"
        )


def _describe_cost(cost: Cost) -> str:
    return f"{cost.params:,} parameters and {cost.mult_adds:,} mult-adds"


def _require_cost(model: nn.Module, expected: Cost, task: Task, culprit: str) -> None:
    params, mult_adds = measure_network(model, task)
    for unit, counted, real in (
        ("parameters", expected.params, params),
        ("mult-adds", expected.mult_adds, mult_adds),
    ):
        if counted != real:
            raise OperatorError(
                f"{culprit}: the cost function counts {counted:,} {unit}, but the network has {real:,}; correct the "
                "function (eatnas_db.testing.check_operator tests it)"
            )


def measure_network(model: nn.Module, task: Task) -> tuple[int, int]:
    """Return the number of trainable parameters of a network, and the mult-adds that torch counts for one image."""
    from torch.utils.flop_counter import FlopCounterMode  # loads slowly, and few searches need it

    params = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, task.channels, task.resolution, task.resolution))
    model.train(was_training)
    return params, int(counter.get_total_flops()) // 2


def _require_pure_forward(model: nn.Module, task: Task, culprit: str) -> None:
    images = torch.linspace(-1, 1, PROBES * task.channels * task.resolution**2)
    with watch_global_draws() as drawn, torch.no_grad():
        logits = model(images.reshape(PROBES, task.channels, task.resolution, task.resolution))
    if drawn:
        raise OperatorError(_describe_draws(culprit, drawn))
    if logits.shape != (PROBES, task.classes):
        raise OperatorError(f"{culprit}: the network returns {tuple(logits.shape)} instead of [N, {task.classes}]")
    if not logits.isfinite().all():
        raise OperatorError(f"{culprit} returns infinite or NaN values with the initial weights")


def _describe_draws(culprit: str, libraries: list[str]) -> str:
    return (
        f"{culprit} draws from the global generator of {' and '.join(libraries)}, so no training can be repeated or "
        "resumed; use no random numbers"
    )
