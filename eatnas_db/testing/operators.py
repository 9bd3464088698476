"""Check an operator: its cost against torch, and the properties that a search relies on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from itertools import product
from typing import Any, Final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eatnas_db.domain.operators import Layer, Operator, count_layer
from eatnas_db.interpreter import python_command
from eatnas_db.plugins import Plugin
from eatnas_training.data.random_states import watch_global_draws
from eatnas_training.network import initialize

CHECKED_LAYERS: Final = tuple(
    Layer(kernel, skip, inputs, outputs, side, stride)
    for kernel, skip, (inputs, outputs), side, stride in product(
        (3, 5, 7), (False, True), ((8, 8), (8, 12), (12, 5)), (8, 7), (1, 2)
    )
)
"""Layers with every combination of properties that a space can ask for."""


def check_operator(operator: Operator, layers: Iterable[Layer] = CHECKED_LAYERS) -> None:
    """Raise `AssertionError` with the reason if an operator lacks a property that searches rely on.

    For each layer the cost function and `torch.utils.flop_counter` must count the same parameters and mult-adds. The
    module must be a function of the layer alone, return finite values of the right shape, draw no random numbers in
    its forward pass, and give every parameter an initial value.
    """
    require_no_torch(operator.count.__module__)
    build = Plugin(operator.module, operator.module).load()
    inherit = operator.inherit and Plugin(operator.inherit, operator.inherit).load()
    for layer in layers:
        label = f"operator {operator.name}, {layer.describe()}"
        assert list(operator.count(layer)) == list(operator.count(layer)), f"{label}: two calls count different costs"
        module, other = (_build(build, layer, label) for _ in range(2))
        assert module is not other, f"{label}: two calls return the same module"
        states = module.state_dict(), other.state_dict()
        assert states[0].keys() == states[1].keys(), f"{label}: two calls build different modules"
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), (
            f"{label}: two modules have different initial weights; initialize every parameter"
        )
        _check_cost(operator, layer, module, label)
        _check_forward(layer, module, label)
        if inherit:
            copied = inherit(other, module, layer)
            total = sum(parameter.numel() for parameter in module.parameters())
            assert 0 <= copied <= total, (
                f"{label}: inherit returns {copied!r} copied elements, and the parameters have {total}"
            )


def require_no_torch(module: str) -> None:
    """Raise `AssertionError` if the import of a module loads torch, because the daemon and the commands import this
    module.
    """
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(python_command("-c", code), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"the import of {module} fails or loads torch; move code that needs torch to the module in `Operator.module`"
        f"{': ' + done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ''}"
    )


def _build(build: Any, layer: Layer, label: str) -> nn.Module:
    with watch_global_draws() as drawn:
        torch.manual_seed(0)
        module: nn.Module = build(layer)
        initialize(module, 0)
    others = [library for library in drawn if library != "torch"]
    assert not others, f"{label}: the constructor draws from the global generator of {' and '.join(others)}"
    return module


def _check_cost(operator: Operator, layer: Layer, module: nn.Module, label: str) -> None:
    counted = count_layer(operator, layer)
    params = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert counted.params == params, (
        f"{label}: the cost function counts {counted.params} parameters, but the module has {params}"
    )
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, layer.inputs, layer.side, layer.side))
    module.train()
    mult_adds = int(counter.get_total_flops()) // 2
    assert counted.mult_adds == mult_adds, (
        f"{label}: the cost function counts {counted.mult_adds} mult-adds, "
        f"but torch.utils.flop_counter counts {mult_adds}"
    )
    assert counted.training > 0, f"{label}: the cost function counts no values in memory"


def _check_forward(layer: Layer, module: nn.Module, label: str) -> None:
    images = torch.linspace(-1, 1, 2 * layer.inputs * layer.side**2).reshape(2, layer.inputs, layer.side, layer.side)
    with watch_global_draws() as drawn:
        output = module(images)
        output.sum().backward()
    assert not drawn, f"{label}: the forward pass draws from the global generator of {' and '.join(drawn)}"
    expected = (2, layer.outputs, layer.output_side, layer.output_side)
    assert output.shape == expected, f"{label}: the output is {tuple(output.shape)} instead of {expected}"
    assert output.isfinite().all(), f"{label}: the output has infinite or NaN values"
    module.eval()
    with torch.no_grad():
        assert torch.equal(module(images), module(images)), f"{label}: two evaluations of one image differ"
