"""Built-in operators and spaces fulfil the interface, and errors explain what is wrong with those of plug-ins."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from eatnas_db.domain.cell_space import CELL_PRESETS, OPERATIONS
from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.domain.operators import BUILT_IN_OPERATORS, Layer, Operator, Part, convolution
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.testing import check_operator, check_space
from eatnas_db.testing.operators import CHECKED_LAYERS
from eatnas_training import numerics
from eatnas_training.building import OperatorError, build_initialized, build_with_plugins
from eatnas_training.inheritance.channel_statistics import Moments
from eatnas_training.inheritance.copying import WeightCopier
from eatnas_training.inheritance.network_parts import LayerParts, PluginLayer
from eatnas_training.inheritance.transfer import NetworkSpec, inherit

TASK = Task(8, 1, 10)
CELL = CELL_PRESETS["nasbench201-tiny"]


def count(layer: Layer) -> list[Part]:
    return [convolution(1, layer.inputs, layer.outputs, layer.side, stride=layer.stride)]


count.__module__ = "eatnas_db.domain.operators"  # a module without torch, like the package of an operator


class Pointwise(nn.Sequential):
    def __init__(self, layer: Layer) -> None:
        convolution = nn.Conv2d(layer.inputs, layer.outputs, 1, layer.stride, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(layer.outputs))


class Raising(Pointwise):
    def forward(self, images):
        raise ValueError("cannot compute this")


class NotANumber(Pointwise):
    def forward(self, images):
        return super().forward(images) * float("nan")


class Lying(Pointwise):
    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.more = nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return self[1](self[0](images))


class Noisy(Pointwise):
    def forward(self, images):
        return super().forward(images) + random.random()


class Dropping(Pointwise):
    def forward(self, images):
        return nn.functional.dropout(super().forward(images), training=self.training)


class Changing(Pointwise):
    calls = 0

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        Changing.calls += 1
        self.offset = nn.Buffer(torch.tensor(float(Changing.calls)))


SHARED = Pointwise(Layer(3, False, 4, 8, 8, 1))


def reuse(layer: Layer) -> nn.Module:
    return SHARED


def leave(layer: Layer) -> nn.Module:
    raise SystemExit(3)


class Gated(Pointwise):
    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.gate = nn.Linear(layer.outputs, layer.outputs, bias=False)

    def forward(self, images):
        features = self[1](self[0](images))
        return features * self.gate(features.mean((2, 3)))[:, :, None, None].sigmoid()


def count_gated(layer: Layer) -> list[Part]:
    gate = layer.outputs**2
    return [*count(layer), Part(gate, gate, kept=layer.outputs)]


BROKEN: list[tuple[Callable[[Layer], nn.Module], str]] = [
    (Raising, "ValueError: cannot compute this"),
    (NotANumber, "infinite or NaN"),
    (Lying, "the cost function counts"),
    (Noisy, "global generator of random"),
    (Dropping, "global generator of torch"),
    (Changing, "different networks"),
    (reuse, "returns the same module twice"),
    (leave, "raises SystemExit"),
]


def macro_with(module: Callable[[Layer], nn.Module]) -> Macro:
    operator = Operator("own", count, f"{__name__}:{module.__name__}")
    return Macro("own", 4, 1, (1, 2), (8, 8), 16, operators=(operator, *BUILT_IN_OPERATORS))


@pytest.mark.parametrize(("module", "reason"), BROKEN, ids=[module.__name__ for module, _ in BROKEN])
def test_broken_operator_is_named_with_the_reason(module, reason):
    macro = macro_with(module)
    architecture = macro.parse("own_k3_d1_w1.0/sep_k3_d1_w1.0")
    with pytest.raises(OperatorError, match=reason) as raised:
        build_with_plugins(architecture, macro, TASK, seed=1)
    assert "own" in str(raised.value)


@pytest.mark.parametrize(("module", "reason"), BROKEN[1:5], ids=[module.__name__ for module, _ in BROKEN[1:5]])
def test_check_operator_refuses_broken_operators(module, reason):
    operator = Operator("own", count, f"{__name__}:{module.__name__}")
    with pytest.raises(AssertionError, match="operator own"):
        check_operator(operator, layers=CHECKED_LAYERS[:1])


def test_layers_may_have_linear_maps_without_bias():
    operator = Operator("own", count_gated, f"{__name__}:Gated")
    macro = Macro("own", 4, 1, (1, 2), (8, 8), 16, operators=(operator, *BUILT_IN_OPERATORS))
    build_with_plugins(macro.parse("own_k3_d1_w1.0/sep_k3_d1_w1.0"), macro, TASK, seed=1)


def test_cost_of_another_process_must_be_the_same():
    macro = macro_with(Pointwise)
    architecture = macro.parse("own_k3_d1_w1.0/sep_k3_d1_w1.0")
    cost, _ = macro.measure(architecture, TASK)
    build_with_plugins(architecture, macro, TASK, seed=1, recorded=cost)
    with pytest.raises(OperatorError, match=r"operator own: .* in the worker, but counted 1 parameters") as raised:
        build_with_plugins(architecture, macro, TASK, seed=1, recorded=replace(cost, params=1))
    assert "its result must depend on the arguments alone" in str(raised.value)


def inherit_at_random(parent: nn.Module, child: nn.Module, layer: Layer) -> int:
    return int(torch.rand(1))


def inherit_too_much(parent: nn.Module, child: nn.Module, layer: Layer) -> int:
    return 10**6


@pytest.mark.parametrize(
    ("function", "reason"), [(inherit_at_random, "generator of torch"), (inherit_too_much, "1000000 copied elements")]
)
def test_broken_inheritance_of_an_operator_is_named(function, reason):
    operator = Operator("own", count, f"{__name__}:Pointwise", inherit=f"{__name__}:{function.__name__}")
    layer = Layer(3, False, 4, 4, 8, 1)
    parent, child = (LayerParts([], plugin=PluginLayer(operator, layer, Pointwise(layer))) for _ in range(2))
    channels, moments = torch.arange(4), Moments(torch.zeros(4), torch.ones(4))
    with pytest.raises(OperatorError, match=reason):
        WeightCopier(exact=True).copy_block([parent], [child], channels, channels, moments)


@pytest.mark.parametrize("operator", BUILT_IN_OPERATORS, ids=lambda operator: operator.name)
def test_built_in_operators_keep_the_interface(operator):
    check_operator(operator, layers=CHECKED_LAYERS[::5])


@pytest.mark.parametrize("space", [PRESETS["eatnas-tiny"], CELL], ids=lambda space: space.name)
def test_built_in_spaces_keep_the_interface(space):
    check_space(space, samples=2, networks=1)


def test_cell_has_the_cost_that_the_benchmark_publishes():
    # https://github.com/D-X-Y/NAS-Bench-201 reports 1.531546 MB of parameters and 220.11969 MFLOPs.
    space = CELL_PRESETS["nasbench201-cifar"]
    cost, _ = space.measure(space.parse("/".join(["op=nor_conv_3x3"] * 6)), Task(32, 3, 10))
    assert (cost.params, cost.mult_adds + 10 * 1) == (1_531_546, 220_119_690)


def test_cell_without_a_path_computes_and_has_one_effective_form():
    space = Space(CELL, TASK)
    first = space.propose(CELL.parse("/".join(["op=nor_conv_1x1", *["op=none"] * 5])))
    second = space.propose(CELL.parse("/".join(["op=none"] * 6)))
    assert first.digest == second.digest
    assert first.cost == second.cost
    build_with_plugins(first.architecture, CELL, TASK, seed=0)


def test_cell_in_bfloat16_has_logits_in_float32():
    network = build_initialized(CELL.parse("/".join(["op=nor_conv_1x1"] * 6)), CELL, TASK, 1)
    images = torch.zeros(2, TASK.channels, TASK.resolution, TASK.resolution)
    with numerics.autocast("cpu", "bfloat16"):
        assert network.features(images).dtype == torch.bfloat16
        assert network(images).dtype == torch.float32


def test_cell_inherits_the_operations_that_stay():
    rng = KeyedRng(0, "cells")
    space = Space(CELL, TASK)
    parent = CELL.parse("/".join(["op=nor_conv_3x3"] * 6))
    child = space.mutate(parent, rng, lambda digest: False)
    old = build_initialized(parent, CELL, TASK, 1)
    new = build_initialized(child.architecture, CELL, TASK, 2)
    result = inherit(
        old.state_dict(), NetworkSpec(parent, CELL, TASK), new, NetworkSpec(child.architecture, CELL, TASK)
    )
    assert 0.7 < result.share <= 1
    assert result.reinitialized_blocks == (child.changes[0].block,)


def test_every_cell_is_counted_once():
    space = Space(CELL, TASK)
    assert space.code_count == len(OPERATIONS) ** 6
    assert space.neighbour_count == 24
